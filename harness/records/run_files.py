"""What items' rows and manifests must hold to be read. See `record`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from harness.core.reading import parse_line, read_json
from harness.records.record import Number, Record, Value, Versioned, Whole, check


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


class BaseRecord(Record):
    """The base model of a run."""

    label: str
    location: str | None = None
    fingerprint: str | None = None


class CheckpointRecord(Record):
    """Kind and fingerprint of a checkpoint."""

    kind: str
    fingerprint: str


class ManifestRecord(Versioned):
    """The part of a manifest that every run has."""

    KNOWN = 1
    kind: str
    base: BaseRecord
    name: str | None = None
    config: dict[str, Any] | None = None
    finished: str = ""
    harness: str | None = None
    summary: dict[str, Any] | None = None
    checkpoint: CheckpointRecord | None = None


class LocatedBase(BaseRecord):
    """A base model with a known location."""

    location: str


class LocatedManifest(ManifestRecord):
    """The manifest of a run whose base's weights can be loaded."""

    base: LocatedBase


class AlignedBase(LocatedBase):
    """The base model of an aligned run: location and fingerprint are known."""

    fingerprint: str


class AlignConfig(Record):
    """The configuration of an alignment."""

    method: str
    model: str
    data: str
    settings: dict[str, Any]
    stage: str | None = None


class AlignedManifest(ManifestRecord):
    """The manifest of an aligned run: the part that serving, exporting and model cards need."""

    base: AlignedBase
    config: AlignConfig  # type: ignore[assignment]


class DataSummary(Record):
    """The preference data of a training."""

    examples: Whole
    fingerprint: str


class Summary(Record):
    """Summary of a training run."""

    data: DataSummary


class StageRow(Record):
    """Summary of a training stage."""

    stage: str
    steps: Whole


class StagesSummary(Record):
    """Summaries of the stages, in order."""

    stages: list[StageRow]


class TrainedManifest(AlignedManifest):
    """The same, as far as what its stages left is looked at."""

    summary: StagesSummary  # type: ignore[assignment]
    checkpoint: CheckpointRecord


class Hardware(Record):
    """Hardware of the run."""

    gpus: list[str]
    cores: Whole | None = None


class CardManifest(AlignedManifest):
    """The manifest of an aligned run: the part that its model card needs."""

    summary: Summary  # type: ignore[assignment]
    checkpoint: CheckpointRecord
    wall_seconds: Value
    hardware: Hardware
    harness: str


def read_manifest(path: Path) -> dict[str, Any]:
    """A run's manifest, checked.

    Raises:
        BadInputError: it cannot be read or used.
    """
    value = read_json(path, "manifest", finite=False)
    check(ManifestRecord, value, "manifest", path)
    assert isinstance(value, dict)
    return value


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
