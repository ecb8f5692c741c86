"""Columns of preference data that say more than two answers: earlier turns, a context that both continue, cut answers, and weights.

earlier_turns       [{role, text, has_image}, ...]: the conversation before the prompt, as our own sets have it (`turn_columns`)
shared_context      the beginning of the answer, which `chosen` and `rejected` continue; no loss counts it
responses_end       false: the responses are cut, so that no end token follows them
example_weight      factor of the example's loss, 0 or more
chosen_weights      [[start, end, weight], ...]: weights of the characters of `chosen`; 1 for the others. Likewise rejected_weights
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aligners.preferences.formats.base import BadRecordError
from harness.core.errors import shown
from harness.core.types import PreferenceExample, Turn, WeightedSpan


def extras(record: Mapping[str, Any], responses: Mapping[str, str]) -> dict[str, Any]:
    """The values of these columns, by the names of `PreferenceExample`; those that a record does not have are left out.

    Raises:
        BadRecordError: one is invalid.
    """
    context, ends = record.get("shared_context"), record.get("responses_end")
    weight = record.get("example_weight")
    values: dict[str, Any] = {}
    if context is not None:
        if not isinstance(context, str):
            raise BadRecordError(f"'shared_context' is not a text: {shown(context)}")
        values["context"] = context
    if ends is not None:
        if not isinstance(ends, bool):
            raise BadRecordError(f"'responses_end' is neither true nor false: {shown(ends)}")
        values["ends"] = ends
    if weight is not None and weight == weight:  # NaN is how tables write a missing number
        values["weight"] = _weight(weight, "example_weight")
    weights = {name: _spans(record.get(f"{name}_weights"), text, name) for name, text in responses.items()}
    if given := {name: spans for name, spans in weights.items() if spans}:
        values["token_weights"] = given
    return values


def extra_columns(example: PreferenceExample) -> dict[str, Any]:
    """An example's values in these columns; None where it has the default."""
    return {
        "earlier_turns": turn_columns(example.history),
        "shared_context": example.context or None,
        "responses_end": None if example.ends else False,
        "example_weight": None if example.weight == 1 else example.weight,
        **{
            f"{name}_weights": [list(span) for span in example.token_weights.get(name, ())] or None
            for name in ("chosen", "rejected")
        },
    }


def turn_columns(history: Sequence[Turn]) -> list[dict[str, Any]] | None:
    """Turns as a cell of the column `earlier_turns`; None if there is none."""
    return [{"role": turn.role, "text": turn.text, "has_image": turn.has_image} for turn in history] or None


def turns_of_column(value: Any) -> tuple[Turn, ...]:
    """The turns of a cell of the column `earlier_turns`. If none has the image, it belongs to the prompt.

    Raises:
        BadRecordError: it is not a system turn or none, and questions with their answers.
    """
    form = "'earlier_turns' is not a list of {role, text, has_image}"
    if not isinstance(value, list | tuple):
        raise BadRecordError(f"{form}: {shown(value)}")
    turns = []
    for cell in value:
        role, text, image = (
            (cell.get(name) for name in ("role", "text", "has_image")) if isinstance(cell, Mapping) else (None,) * 3
        )
        if role not in ("system", "user", "assistant") or not isinstance(text, str) or image not in (None, True, False):
            raise BadRecordError(f"{form}: {shown(cell)}")
        if image and role != "user":
            raise BadRecordError(f"'earlier_turns' gives the image to a turn of the role '{role}'")
        turns.append(Turn(role, text, bool(image)))
    roles = [turn.role for turn in turns]
    spoken = roles[1:] if roles[0] == "system" else roles
    if spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise BadRecordError(f"'earlier_turns' is not questions with their answers but: {', '.join(roles[:8])}")
    return tuple(turns)


def _weight(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise BadRecordError(f"'{what}' is not a number of at least 0: {shown(value)}")
    return float(value)


def _spans(value: Any, text: str, name: str) -> tuple[WeightedSpan, ...]:
    if value is None:
        return ()
    rows = value if isinstance(value, list | tuple) else [None]
    spans = []
    for row in rows:
        if not isinstance(row, list | tuple) or len(row) != 3 or not all(_is_place(place) for place in row[:2]):
            raise BadRecordError(f"'{name}_weights' is not a list of [start, end, weight]: {shown(value)}")
        start, end = int(row[0]), int(row[1])
        if not 0 <= start < end <= len(text):
            raise BadRecordError(
                f"'{name}_weights' has [{start}, {end}], outside the {len(text)} characters of '{name}'"
            )
        spans.append((start, end, _weight(row[2], f"{name}_weights")))
    return tuple(spans)


def _is_place(value: Any) -> bool:
    """Whether a value is a whole number; a column of [start, end, weight] has floating-point numbers only."""
    return isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
