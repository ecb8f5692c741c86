"""What a folder under `results/` is: a complete run, one that was begun, one that came to nothing, or no run of ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.core.locks import is_held

MANIFEST = "manifest.json"
CONFIG = "config.json"
FAILED = "failed.json"
"""In a run's folder, after an attempt that ended with an error: why. Removed by the next attempt."""
KINDS = ("align", "base", "endpoint")
LOCKS = ".locks"
"""Beside the runs: a lock's file for every run that was ever written to."""
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
"""What an attempt may have left that made no step: it is made anew by the next one."""

Condition = Literal["complete", "running", "interrupted", "failed", "nothing", "foreign"]


@dataclass(frozen=True)
class State:
    """What a folder is.

    Attributes:
        condition: "complete"; "running", while a process writes to it; "interrupted", with steps, a checkpoint or answers in it;
            "failed", an attempt that made no step; "nothing", no folder or an empty one; "foreign", whatever is no run of ours.
        reason: why the last attempt ended, where it could be written down; "" otherwise.
        steps: steps that the training log tells of.
    """

    condition: Condition
    reason: str = ""
    steps: int = 0

    @property
    def reusable(self) -> bool:
        """Whether a new attempt may take the folder: nothing in it is worth being kept."""
        return self.condition in ("nothing", "failed")


def state_of(folder: Path, *, held: bool | None = None) -> State:
    """What a folder is; nothing in it is changed.

    Args:
        folder: the folder.
        held: whether a process writes to it, where the caller knows; else its lock is looked at.

    Raises:
        OSError: it cannot be looked at.
    """
    if not folder.exists():
        return State("nothing")
    if not folder.is_dir():
        return State("foreign")
    if not any(folder.iterdir()):
        return State("nothing")
    running = is_held(lock_of(folder)) if held is None else held
    if not is_run(folder):  # a run that begins holds its lock before its configuration is there
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

    A folder that merely has files of these names, such as a checkpoint with its `config.json`, is none.
    """
    manifest, config = read_object(folder / MANIFEST), read_object(folder / CONFIG)
    if manifest is not None and manifest.get("kind") in KINDS:
        # A checkpoint's folder has the manifest of its run.
        return not (folder / "adapter_config.json").exists() and (config is None or "model_type" not in config)
    return config is not None and {"method", "model", "settings", "location"} <= config.keys()


def lock_of(folder: Path) -> Path:
    """The file that is locked while a process writes a run; it is beside the run, so that it stays where the folder is moved."""
    return folder.parent / LOCKS / f"{folder.name}.lock"


def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is none that can be read."""
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
    """Whether a run without a manifest has something that took work: weights, a stage's state, or answers."""
    patterns = ("checkpoint/*", "stages/*/checkpoint*", "stages/*/*.safetensors", "evals/**/responses*.jsonl")
    return any(path.is_dir() or path.stat().st_size for pattern in patterns for path in folder.glob(pattern))


def _reason(folder: Path) -> str:
    failed = read_object(folder / FAILED)
    return str(failed.get("reason", "")) if failed else ""
