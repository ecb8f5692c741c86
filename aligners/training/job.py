"""The request and the result of an alignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aligners.preferences.options import DataOptions
from harness.core.config import TrainSettings
from harness.records.training_files import TrainingSummary


@dataclass(frozen=True)
class AlignJob:
    """One alignment: everything that determines it, and its output folder.

    Attributes:
        model: folder or hub id of the starting model, resolved.
        data: preference data: a file, a folder or a known data set's name.
        output: run folder; the checkpoint is written to `output / "checkpoint"`.
        train: settings of the trainer.
        cache: the user's cache folder.
        limit: use a seeded sample of this many examples only.
        on_error: what to do with a bad record.
        allow_download: fetch images that are given by URL.
        data_options: columns under other names, a folder of images besides the data's.
        resume: continue from the newest intermediate checkpoint in `output`.
        canary: check before and at the first step that the trainer computes what the model does (`aligners.training.checks.canary`).
        held_out: folder or file of `train.balance.data`, where that names data that are made on this machine.
        stage_done: called for every stage whose checkpoint is kept, when it is finished, with the stage's folder, which contains the
        checkpoint, and the summary so far (as in `AlignResult`).
        on_step: called with every row of the training log, in the first process.
    """

    model: str
    data: str
    output: Path
    train: TrainSettings
    cache: Path
    limit: int | None = None
    on_error: Literal["fail", "skip"] = "fail"
    resume: bool = False
    allow_download: bool = False
    data_options: DataOptions = field(default_factory=DataOptions)
    held_out: str | None = None
    stage_done: Callable[[Path, TrainingSummary], None] = lambda folder, summary: None
    canary: bool = True
    on_step: Callable[[Mapping[str, Any]], None] | None = None


@dataclass(frozen=True, slots=True)
class AlignResult:
    """The result of an alignment: the checkpoint folder and the summary for the manifest.

    `scratch` are files that only --resume needs; they and empty folders are removed when the manifest is written.
    """

    checkpoint: Path
    summary: TrainingSummary
    scratch: Sequence[Path] = ()
