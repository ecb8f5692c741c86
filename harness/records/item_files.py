"""The rows of item files. See `harness.core.record`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from harness.core.reading import parse_line
from harness.core.record import Number, Record, Whole, check


class PieceRecord(Record):
    """A piece of evidence, see `harness.core.types.Evidence`."""

    text: str
    verdict: Literal["correct", "hallucinated", "missed", "unjudged"]
    label: str
    span: Annotated[list[Whole], Field(min_length=2, max_length=2)] | None

    @property
    def place(self) -> tuple[int, int] | None:
        """The span, as it is elsewhere."""
        return (self.span[0], self.span[1]) if self.span else None


class DetailsRecord(Record):
    """The parts of an item's details that are shown."""

    said: str | None = None
    rating: Number | None = None
    review: str | None = None


class ItemRecord(Record):
    """An item's row, see `harness.evaluation.score.item_rows`."""

    item: str
    group: str
    prompt: str
    text: str
    counts: dict[str, Number]
    evidence: list[PieceRecord]
    details: DetailsRecord
    unscored: str | None = None

    @model_validator(mode="after")
    def _spans_are_in_the_text(self) -> Self:
        for piece in self.evidence:
            if piece.span is not None and not piece.span[0] <= piece.span[1] <= len(self.text):
                raise ValueError(f"the span {piece.span} is not a part of the text")
        return self


def item_record(line: bytes, number: int, path: Path) -> ItemRecord:
    """An item's row from its line, in a third of the time that `item_row` takes.

    Raises:
        BadInputError: as `item_row`.
    """
    try:
        return ItemRecord.model_validate_json(line)
    except ValidationError:  # also where it holds halves of characters, which only Python's reader takes
        return check(ItemRecord, item_row(line, number, path), "items", f"{path}:{number}")


def item_row(line: bytes, number: int, path: Path) -> dict[str, Any]:
    """An item's row from its line, checked. Halves of characters, which an answer may hold, become replacement characters.

    Raises:
        BadInputError: the line is not JSON, or no item's row.
    """
    row = parse_line(line, number, "items", path)
    if b"\\ud" in line or b"\\uD" in line:
        row = _whole(row)
    check(ItemRecord, row, f"line {number} of the items", f"{path}:{number}")
    return row


_HALVES = dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(_HALVES)
    if isinstance(value, Mapping):
        return {_whole(key): _whole(one) for key, one in value.items()}
    return [_whole(one) for one in value] if isinstance(value, list) else value
