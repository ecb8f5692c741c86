"""The manifest of a run, `manifest.json`: what a run made, from what, how, and its results. See `harness.core.record`.

`ManifestRecord` fits every run's manifest. Its subclasses are views of an aligned run's manifest: each has the further keys that one use
of the run requires, so that a run whose manifest is insufficient for a model card can still be evaluated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from harness.core.reading import read_json
from harness.core.record import AnyText, Record, Value, Versioned, Whole, check
from harness.records.training_files import DataSummary, StageRow


class BaseRecord(Record):
    """The base model of a run."""

    label: AnyText = Field(description="as the user named it")
    location: AnyText | None = Field(None, description="folder or hub id of the weights; null behind an endpoint")
    fingerprint: str | None = Field(None, description="hash of the weights; null behind an endpoint")


class CheckpointRecord(Record):
    """Kind and fingerprint of a checkpoint."""

    kind: str = Field(description="full or adapter")
    fingerprint: str = Field(description="hash of the weights")


class Hardware(Record):
    """Hardware of a run."""

    machine: str | None = Field(None, description="architecture of the processor")
    cores: Whole | None = Field(None, description="cores that the process could use")
    gpus: list[str] = Field(description="names of the GPUs")


class Surroundings(Record):
    """Versions, source commit, hardware and command line of what wrote a file."""

    harness: str = Field(description="version of this package")
    commit: str | None = Field(description="of the source, with +changes; null outside of a checkout")
    python: str = Field(description="version of Python")
    packages: dict[str, str] = Field(description="versions of packages that determine numbers")
    hardware: Hardware
    command: list[AnyText] = Field(description="the command line")
    finished: str = Field(description="time in UTC, ISO 8601")


class ExportedFrom(Record):
    """Where an exported checkpoint comes from."""

    run: str = Field(description="name of the run")
    kind: str = Field(description="full or adapter: what the run had")
    fingerprint: str = Field(description="hash of the run's weights")


class ImportedFile(Record):
    """A file whose answers were imported."""

    path: str = Field(description="as the user named it")
    sha256: str = Field(description="of its bytes; of a folder, of its files' names and bytes")


class ImportedAnswers(Record):
    """The answers of another tool to one suite (`harness import-results`)."""

    suite: str
    data: str = Field(description="the benchmark data, as the user named it")
    form: str = Field(description="whose files these are, as it was detected")
    files: list[ImportedFile]
    answers: Whole = Field(description="number of answers")
    of: Whole = Field(description="number of the suite's items")
    imported: str = Field(description="time in UTC, ISO 8601")


class ManifestRecord(Versioned):
    """The keys of every run's manifest.

    Only `kind` and `base` are in all of them: version 0.1 and base models' runs have fewer keys than aligned ones of today.
    """

    KNOWN = 1
    kind: str = Field(description="align, base, endpoint or imported")
    name: str | None = Field(None, description="of the run")
    config: dict[str, Any] | None = Field(None, description="the resolved configuration, as config.json has it")
    base: BaseRecord
    checkpoint: CheckpointRecord | None = Field(None, description="of an aligned run")
    summary: dict[str, Any] | None = Field(None, description="of the training; written as TrainingSummary")
    wall_seconds: Value | None = Field(None, description="duration of the training; if `resumed`, of its last attempt")
    resumed: bool | None = Field(None, description="true, only if the run was interrupted and continued")
    harness: str | None = Field(None, description="as in Surroundings, like the keys below")
    commit: str | None = None
    python: str | None = None
    packages: dict[str, Any] | None = None
    hardware: dict[str, Any] | None = None
    command: list[AnyText] | None = None
    finished: str = ""
    exported_from: ExportedFrom | None = Field(None, description="of an exported checkpoint")
    imported: dict[str, ImportedAnswers] | None = Field(
        None, description="of an imported run: SUITE@DATA -> where the answers come from"
    )


class LocatedBase(BaseRecord):
    """A base model with a known location."""

    location: AnyText


class LocatedManifest(ManifestRecord):
    """The manifest of a run whose base's weights can be loaded."""

    base: LocatedBase


class AlignedBase(LocatedBase):
    """The base model of an aligned run: location and fingerprint are known."""

    fingerprint: str


class StartRecord(Record):
    """The earlier run whose exported checkpoint an alignment started from, in place of the base model's weights."""

    run: str = Field(description="name of the run")
    fingerprint: str = Field(description="hash of the run's weights")
    origin: AnyText | None = Field(
        None,
        description="folder or hub id of the base model, which the first run started from; null if its label finds it anywhere",
    )


class AlignConfig(Record):
    """The resolved configuration of an alignment, `config.json`.

    `start`, `columns` and `image_root` are only there where the options of these names were given.
    """

    method: str = Field(description="the aligner")
    model: AnyText = Field(description="the base model, as the user named it")
    location: AnyText | None = Field(None, description="folder or hub id of the weights that the training starts from")
    start: StartRecord | None = Field(None, description="--start, only if it was given: where those weights come from")
    data: AnyText = Field(description="preference data, as the user named it")
    limit: int | None = Field(None, description="size of the sample of the data")
    on_error: str | None = Field(None, description="fail or skip: what happens to records that cannot be used")
    columns: dict[str, AnyText] | None = Field(None, description="--columns: name in the formats -> column")
    image_root: AnyText | None = Field(None, description="--image-root")
    settings: dict[str, Any] = Field(description="`train` and `method`, with defaults")
    stage: str | None = Field(None, description="in a stage's manifest: the stage's folder")


class AlignedManifest(ManifestRecord):
    """The manifest of an aligned run: the part that serving, exporting and model cards need."""

    config: AlignConfig  # type: ignore[assignment]
    base: AlignedBase


class SummaryOfData(Record):
    """The part of a training's summary about its data."""

    data: DataSummary


class SummaryOfStages(Record):
    """The part of a training's summary about its stages, in order."""

    stages: list[StageRow]


class TrainedManifest(AlignedManifest):
    """The manifest of an aligned run: the part about its stages."""

    checkpoint: CheckpointRecord
    summary: SummaryOfStages  # type: ignore[assignment]


class CardManifest(AlignedManifest):
    """The manifest of an aligned run: the part that its model card needs."""

    checkpoint: CheckpointRecord
    summary: SummaryOfData  # type: ignore[assignment]
    wall_seconds: Value
    harness: str
    hardware: Hardware  # type: ignore[assignment]


def read_manifest(path: Path) -> ManifestRecord:
    """A run's manifest.

    Raises:
        BadInputError: it cannot be read or used.
    """
    return check(ManifestRecord, read_json(path, "manifest", finite=False), "manifest", path)
