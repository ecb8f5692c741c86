"""Setting aside answers that will be generated again, with their scores, and restoring them."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import BadInputError
from harness.core.removal import REPLACED, move, remove

_FILES = ("responses.jsonl", "serving.json", "scores*.json", "items*.jsonl")
"""Patterns of files that belong to the answers in a suite's folder; shards and repeats have their own folders."""


def answers_in(folder: Path) -> Iterator[Path]:
    """The files of a suite's folder that belong to its answers."""
    for pattern in _FILES:
        yield from sorted(folder.glob(pattern))


def put_answers_aside(folder: Path) -> Path | None:
    """Move a suite's answers and scores into a folder of `.replaced/` in it; None if there are no answers.

    The caller holds the folder's lock.
    """
    log = folder / "responses.jsonl"
    if not log.exists() or not log.stat().st_size:
        return None
    kept = folder / REPLACED / datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%fZ")
    kept.mkdir(parents=True)
    for path in list(answers_in(folder)):
        move(path, kept / path.name, within=folder)
    return kept


def bring_answers_back(kept: Path) -> None:
    """Restore replaced answers. Answers that are in their place are set aside instead.

    The caller holds the folder's lock.

    Raises:
        BadInputError: there are no replaced answers.
    """
    folder = kept.parent.parent
    if not kept.is_dir() or kept.parent.name != REPLACED:
        raise BadInputError(
            "there are no replaced answers here", where=str(kept), remedy="`harness runs` lists replaced answers"
        )
    if put_answers_aside(folder) is None:
        for path in list(answers_in(folder)):  # left by a run without an answer
            remove(path, within=folder)
    for path in list(kept.iterdir()):
        move(path, folder / path.name, within=folder)
    remove(kept, within=folder)
    if not any((folder / REPLACED).iterdir()):
        remove(folder / REPLACED, within=folder)
