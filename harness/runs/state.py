"""The state of a folder under `results/`: a complete, interrupted or failed run, or not a run of ours."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from harness.core.locks import is_held
from harness.records.run_files import FailedRecord

MANIFEST = "manifest.json"
CONFIG = "config.json"
FAILED = "failed.json"
"""File in a run's folder with the reason why the last attempt failed. Removed by the next attempt."""
KINDS = ("align", "base", "endpoint", "imported")
LOCKS = ".locks"
"""Folder next to the runs, with a lock file for every run."""
LOG = "train_log.jsonl"
BEFORE_THE_FIRST_STEP = (
    CONFIG,
    FAILED,
    "step.json",
    "dropped.jsonl",
    "image_preferences.jsonl",
    "image_preferences",
    LOG,
    "stages",
)
"""Files that an attempt without a finished step may leave; the next attempt makes them again."""

Condition = Literal["complete", "running", "interrupted", "failed", "nothing", "foreign"]


@dataclass(frozen=True)
class State:
    """The state of a folder.

    Attributes:
        condition: "complete"; "running" (a process writes to it); "interrupted" (it has steps, a checkpoint or answers); "failed" (no
        finished step); "nothing" (no folder, or an empty one); "foreign" (not a run of ours).
        reason: why the last attempt failed, if that is known; else "".
        steps: number of steps in the training log.
    """

    condition: Condition
    reason: str = ""
    steps: int = 0

    @property
    def reusable(self) -> bool:
        """Whether a new attempt may use the folder, because nothing in it is worth keeping."""
        return self.condition in ("nothing", "failed")


def state_of(folder: Path, *, held: bool | None = None) -> State:
    """Determine the state of a folder; nothing in it is changed.

    Args:
        folder: the folder.
        held: whether a process writes to it, if the caller knows; else its lock is checked.

    Raises:
        OSError: it cannot be read.
    """
    if not folder.exists():
        return State("nothing")
    if not folder.is_dir():
        return State("foreign")
    if not any(folder.iterdir()):
        return State("nothing")
    running = is_held(lock_of(folder)) if held is None else held
    if not is_run(folder):  # a starting run holds its lock before it writes its configuration
        return State("running" if running else "foreign")
    reason, steps = _reason(folder), steps_of(folder)
    if running:
        return State("running", "", steps)
    if (folder / MANIFEST).exists():
        return State("complete")
    if steps or _worth_keeping(folder):
        return State("interrupted", reason, steps)
    return State("failed", reason)


def is_run(folder: Path) -> bool:
    """Whether a folder was made by `harness align` or `eval`: its manifest or its configuration says so.

    A folder with other files of these names, such as a checkpoint with its `config.json`, is not.
    """
    manifest, config = read_object(folder / MANIFEST), read_object(folder / CONFIG)
    if manifest is not None and manifest.get("kind") in KINDS:
        # A checkpoint's folder has the manifest of its run.
        return not (folder / "adapter_config.json").exists() and (config is None or "model_type" not in config)
    return config is not None and {"method", "model", "settings", "location"} <= config.keys()


def lock_of(folder: Path) -> Path:
    """The file that is locked while a process writes a run; it is next to the run, so that it stays when the folder is moved."""
    return folder.parent / LOCKS / f"{folder.name}.lock"


def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None if it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def steps_of(folder: Path) -> int:
    """The number of steps in a run's training log."""
    try:
        with (folder / LOG).open("rb") as stream:
            return sum(1 for line in stream if line.strip())
    except OSError:
        return 0


def _worth_keeping(folder: Path) -> bool:
    """Whether a run without a manifest has valuable results: weights, a stage's state, or answers."""
    patterns = ("checkpoint/*", "stages/*/checkpoint*", "stages/*/*.safetensors", "evals/**/responses*.jsonl")
    return any(path.is_dir() or path.stat().st_size for pattern in patterns for path in folder.glob(pattern))


def _reason(folder: Path) -> str:
    with suppress(ValidationError):
        return FailedRecord.model_validate(read_object(folder / FAILED)).reason
    return ""
