"""The interface of extractors: from texts to mentions of objects with class and character span."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from harness.core.types import Span


class Mention(NamedTuple):
    """An object that a text mentions: the parser's word, its class, and its span."""

    word: str
    label: str
    span: Span | None


_CHUNK = re.compile(r"\S{1000,}")
_SURROGATE = re.compile("[\ud800-\udfff]")


def readable(text: str) -> str:
    """The text in a form that spaCy can read, with every character at its position.

    Lone surrogates, which some JSON contains, become replacement characters. Runs of a thousand or more characters without a blank,
    which no sentence has and which take its tokenizer minutes, are ignored.
    """
    return _CHUNK.sub(lambda found: "x" * len(found.group()), _SURROGATE.sub("\ufffd", text))


class Extractor(Protocol):
    """Finds the vocabulary's objects in texts."""

    def mentions(self, texts: Sequence[str]) -> list[list[Mention]]:
        """The mentions of each text in order, with repetitions."""

    def provenance(self) -> dict[str, Any]:
        """Versions of the parser. JSON-able."""
