"""What a run's files must hold to be read: manifests, score records and items' rows, each checked once where it is read.

The files are data: a killed writer, another version or a stranger may have made them. A file that does not fit is refused with its path
and the first thing that is wrong; other keys than those named here pass, so that what other versions add or leave out does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.core.errors import BadInputError, shown
from harness.core.reading import parse_line, read_json

MOST = 1e12
"""Larger values and counts are none: a thousand words on every image of the world."""
ROUNDING = 1e-9
_NAMED = 12
"""Missing keys that an error names."""

Number = Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)]
Value = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, le=int(MOST))]


class Record(BaseModel):
    """An object of a file: no value is turned into another type, and unknown keys pass."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class MetricRecord(Record):
    """A metric's value, and what it is."""

    value: Value | None
    ci: Annotated[list[Value], Field(min_length=2, max_length=2)] | None
    higher_is_better: bool | None
    title: str
    unit: Literal["%", "words", "points", "count"]
    headline: bool
    official: str | None = None

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.ci is not None and self.ci[0] > self.ci[1]:
            raise ValueError(f"the interval {self.ci} ends before it starts")
        if self.unit == "%" and (most := max([self.value or 0.0, *(self.ci or ())])) > 1 + ROUNDING:
            raise ValueError(f"{most:g} is not a rate, which is a fraction of at most 1")
        return self


class ServingRecord(Record):
    """What answered."""

    backend: str
    distribution: str | None = None
    device: str | None = None


class SamplingRecord(Record):
    """How answers were drawn."""

    max_new_tokens: Whole


class JudgeRecord(Record):
    """Who judged."""

    judge: str
    model: str | None = None


class ScoresRecord(Record):
    """A score file, see `harness.evaluation.score.score_suite`."""

    suite: str
    variant: str
    data: str
    model: str
    method: str
    settings: dict[str, Any]
    metrics: dict[str, MetricRecord]
    n: Whole
    of: Whole
    unscored: Whole
    judge: JudgeRecord | None
    sampling: SamplingRecord
    serving: ServingRecord
    source: str | None = None
    files: dict[str, Any] | None = None
    counts: dict[str, Number] | None = None


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
    """Of what benchmarks note about an item, the parts that are shown."""

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
    """What a checkpoint is."""

    kind: str
    fingerprint: str


class ManifestRecord(Record):
    """A run's manifest, as far as every run has it."""

    kind: str
    base: BaseRecord
    name: str | None = None
    config: dict[str, Any] | None = None
    finished: str = ""
    harness: str | None = None
    summary: dict[str, Any] | None = None
    checkpoint: CheckpointRecord | None = None


class LocatedBase(BaseRecord):
    """A base whose weights are somewhere."""

    location: str


class LocatedManifest(ManifestRecord):
    """The manifest of a run whose base's weights can be loaded."""

    base: LocatedBase


class AlignedBase(LocatedBase):
    """A base that something was trained on is somewhere, and known."""

    fingerprint: str


class AlignConfig(Record):
    """What an alignment was told."""

    method: str
    model: str
    data: str
    settings: dict[str, Any]
    stage: str | None = None


class AlignedManifest(ManifestRecord):
    """The manifest of an aligned run, as far as serving, exporting and its model card need it."""

    base: AlignedBase
    config: AlignConfig  # type: ignore[assignment]


class DataSummary(Record):
    """The preference data of a training."""

    examples: Whole
    fingerprint: str


class Summary(Record):
    """What a training reports."""

    data: DataSummary


class StageRow(Record):
    """What a stage of a training reports."""

    stage: str
    steps: Whole


class StagesSummary(Record):
    """The stages of a training, in turn."""

    stages: list[StageRow]


class TrainedManifest(AlignedManifest):
    """The same, as far as what its stages left is looked at."""

    summary: StagesSummary  # type: ignore[assignment]
    checkpoint: CheckpointRecord


class Hardware(Record):
    """What it ran on."""

    gpus: list[str]
    cores: Whole | None = None


class CardManifest(AlignedManifest):
    """The same, as far as its model card needs it."""

    summary: Summary  # type: ignore[assignment]
    checkpoint: CheckpointRecord
    wall_seconds: Value
    hardware: Hardware
    harness: str


R = TypeVar("R", bound=Record)


def check(kind: type[R], value: Any, what: str, where: Path | str) -> R:
    """A value of a file as the record that it should be.

    Raises:
        BadInputError: it is another one; the first key that is wrong is named.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise BadInputError(
            f"the {what} cannot be used: {_reason(error)}",
            where=str(where),
            remedy="run the command that wrote it again, or remove it",
        ) from None


def _reason(error: ValidationError) -> str:
    """The first thing that is wrong, in a few words."""
    found = error.errors(include_url=False)
    if missing := sorted(".".join(map(str, one["loc"])) for one in found if one["type"] == "missing"):
        return f"it is from another version: it has no {', '.join(missing[:_NAMED])}"
    first = found[0]
    key = ".".join(str(part) for part in first["loc"])
    key = shown(key, 200)[1:-1]
    if first["type"] == "value_error":
        said = first["msg"].removeprefix("Value error, ")
        return f"{key}: {said}" if key else said
    said = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    return f"{key} is {shown(first['input'])}: {said}" if key else f"it is {shown(first['input'])}: {said}"


def read_scores(path: Path) -> dict[str, Any]:
    """A score file, checked.

    Raises:
        BadInputError: it cannot be read or used.
    """
    value = read_json(path, "scores")
    check(ScoresRecord, value, "scores", path)
    assert isinstance(value, dict)
    return value


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
