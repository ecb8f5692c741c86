"""Item files, `items-VARIANT.jsonl`: the question, answer, counts and verdicts of each item of a suite. See `harness.core.record`.

A suite has up to 15,000 rows, so these are plain dataclasses: made without a check, and checked in one pass over a line's JSON when read,
in a sixth of the time and a third of the memory that models take. Keys of later versions are ignored; rows are never written again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from harness.core.reading import parse_line
from harness.core.record import Number, Whole, unusable

_STRICT = ConfigDict(strict=True)


class DetailsRow(TypedDict, total=False):
    """The details of an item that are shown; benchmarks add keys of their own."""

    __pydantic_config__ = ConfigDict(strict=True, extra="allow")  # type: ignore[misc]
    said: str | None
    rating: Number | None
    review: str | None


@dataclass(frozen=True, slots=True)
class PieceRow:
    """A piece of evidence, see `harness.core.types.Evidence`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    text: Annotated[str, Field(description="as the response has it")]
    verdict: Annotated[
        Literal["correct", "hallucinated", "missed", "unjudged"],
        Field(description="missed: in the reference, but not in the response"),
    ]
    label: Annotated[str, Field(description="what it was counted as")]
    span: Annotated[tuple[Whole, Whole] | None, Field(description="its characters in the response")]


@dataclass(frozen=True, slots=True)
class ItemRow:
    """A row of an item file."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    item: Annotated[str, Field(description="id of the item")]
    group: Annotated[str, Field(description="the image: what bootstraps resample")]
    prompt: Annotated[str, Field(description="the question")]
    text: Annotated[str, Field(description="the response")]
    counts: Annotated[Mapping[str, Number], Field(description="numerators and denominators of metrics")]
    evidence: Annotated[list[PieceRow], Field(description="mentions with their verdicts")]
    details: Annotated[DetailsRow, Field(description="what else the benchmark says")]
    unscored: Annotated[str | None, Field(description="why there is no verdict")] = None

    def written(self) -> dict[str, Any]:
        """The JSON-able object of a line, from which benchmarks also derive verdicts."""
        return {
            "item": self.item,
            "group": self.group,
            "prompt": self.prompt,
            "text": self.text,
            "counts": dict(self.counts),
            "evidence": [
                {"text": piece.text, "verdict": piece.verdict, "label": piece.label, "span": piece.span}
                for piece in self.evidence
            ],
            "details": dict(self.details),
            "unscored": self.unscored,
        }


def _spans_are_in_the_text(row: ItemRow) -> ItemRow:
    for piece in row.evidence:
        if piece.span is not None and not piece.span[0] <= piece.span[1] <= len(row.text):
            raise ValueError(f"the span {list(piece.span)} is not a part of the text")
    return row


_ROW: TypeAdapter[ItemRow] = TypeAdapter(Annotated[ItemRow, AfterValidator(_spans_are_in_the_text)])
_HUGE = re.compile(rb"[0-9][eE]\+?[0-9]{3}")


def _is_unusual(line: bytes) -> bool:
    """Whether a line may contain NaN, numbers beyond floating point, or lone surrogates, for which `parse_line` has good errors."""
    return b"\\ud" in line or b"\\uD" in line or b"NaN" in line or b"Infinity" in line or bool(_HUGE.search(line))


def item_row(line: bytes, number: int, path: Path, *, details: bool = True) -> ItemRow:
    """An item's row from its line. Lone surrogates, which an answer may contain, become replacement characters.

    Args:
        line: the line.
        number: its number, for messages.
        path: the file, for messages.
        details: whether `details` will be used. Numbers beyond floating point in them are searched for only then, which takes as long as
            reading the rest.

    Raises:
        BadInputError: the line is not JSON, or not an item's row.
    """
    if not (details and _is_unusual(line)):
        try:
            return _ROW.validate_json(line)
        except ValidationError:  # explained below, where a line that is not JSON is told first
            pass
    row = parse_line(line, number, "items", path)
    try:
        return _ROW.validate_json(json.dumps(_whole(row)))
    except ValidationError as error:
        raise unusable(error, f"line {number} of the items", f"{path}:{number}") from None


_HALVES = dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(_HALVES)
    if isinstance(value, Mapping):
        return {_whole(key): _whole(inner) for key, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value
