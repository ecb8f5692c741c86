"""Prices of judge models."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import BadInputError
from harness.core.yaml_values import read_yaml

_TABLE = Path(__file__).with_name("prices.yaml")
_DATED = re.compile(r"-(\d{4}(-\d{2}-\d{2})?|preview|latest)$")
CHARACTERS_PER_TOKEN = 3.5
"""English prose has about four characters per token; a little less is assumed, so that estimates are not too low."""


class Price(NamedTuple):
    """US dollars for a million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars for these numbers of tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@functools.cache
def _table() -> dict[str, Price]:
    content = read_yaml(_TABLE, "list of prices")
    return {name: Price(float(one), float(other)) for name, (one, other) in content["models"].items()}


def price_of(model: str) -> Price | None:
    """The listed price of a model, with or without a date in its name; None if none is listed."""
    name = model
    while name not in _table():
        shorter = _DATED.sub("", name)
        if shorter == name:
            return None
        name = shorter
    return _table()[name]


def parse_price(text: str) -> Price:
    """A price from `IN,OUT`.

    Raises:
        BadInputError: it is invalid.
    """
    try:
        prompt, completion = (float(part) for part in text.split(","))
    except ValueError:
        raise BadInputError(
            f"--judge-price must be two numbers, USD per million prompt and completion tokens, e.g. 2.50,10, not '{text}'"
        ) from None
    if min(prompt, completion) < 0:
        raise BadInputError(f"--judge-price: a price cannot be negative: '{text}'")
    return Price(prompt, completion)


def tokens_of(text: str) -> int:
    """About how many tokens a text has."""
    return int(len(text) / CHARACTERS_PER_TOKEN) + 1
