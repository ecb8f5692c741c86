"""Listing, removing and restoring runs: complete, incomplete and replaced ones. Nothing is removed without a request."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from harness.core.errors import BadInputError
from harness.core.locks import is_held, writing
from harness.core.removal import REMOVED, REPLACED, aside_name, move, put_aside, remove
from harness.core.temporary import SUFFIX, is_unheld
from harness.runs.set_aside import bring_answers_back
from harness.runs.state import LOCKS, MANIFEST, is_run, lock_of, read_object, state_of

Condition = Literal["complete", "running", "interrupted", "failed", "replaced", "leftover"]
_ANSWERS = tuple(
    f"{run}/evals/*{part}"
    for run in ("*", "*/stages/*")
    for part in ("", "/shards/*", "/repeats/*", "/noise/*", "/noise/*/shards/*")
)
"""Patterns of folders of answers below a folder of runs; a stage is a run of its own."""
_TEMPORARY = re.compile(rf"\..+\.([a-z0-9_]{{8}}({re.escape(SUFFIX)})?|[0-9a-f]{{8}}{re.escape(REMOVED)})")
"""Patterns of names for what is not complete yet, and for what is being removed."""


@dataclass(frozen=True)
class RunEntry:
    """A run, or the rest of one.

    Attributes:
        name: name of the run; for replaced answers, followed by the suite.
        path: the folder.
        condition: as in `harness.runs.state`, and "replaced" or "leftover" (temporary folders of writers that were killed).
        note: why it failed, how far it came, or what replaced it.
        removable: whether `prune` removes it when no run is named.
        finished: when it was completed; "" while it is not.
        bytes: size on disk.
    """

    name: str
    path: Path
    condition: Condition
    note: str
    removable: bool
    finished: str = ""

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return size_of(self.path)

    def row(self) -> dict[str, Any]:
        """JSON-able values for `--json`."""
        return {
            "name": self.name,
            "state": self.condition,
            "note": self.note,
            "finished": self.finished or None,
            "bytes": self.bytes,
            "removable": self.removable,
            "path": str(self.path),
        }


def survey_all(results: Path) -> list[RunEntry]:
    """Everything in a folder of runs, by name; replaced runs follow their successors.

    Raises:
        BadInputError: there is no such folder.
    """
    if not results.is_dir():
        raise BadInputError(
            f"there is no folder '{results}'" if not results.exists() else f"'{results}' is not a folder",
            remedy="give the folder of the runs: --results DIR",
        )
    entries = [*_runs(results), *_aside(results), *_answers_aside(results), *_left_over(results)]
    order = {"complete": 0, "running": 0, "interrupted": 0, "failed": 0, "replaced": 1, "leftover": 2}
    return sorted(entries, key=lambda one: (one.name, order[one.condition], one.path.name))


def prune(results: Path, entries: Sequence[RunEntry]) -> int:
    """Remove entries, and return the number of freed bytes. Complete runs and runs that are being written are not removed.

    Raises:
        BusyError: a process is writing one of them; earlier ones were removed.
        BadInputError: one of them is a complete run.
    """
    freed = 0
    for entry in entries:
        if entry.condition in ("complete", "running"):
            raise BadInputError(f"'{entry.name}' is {entry.condition}, so it is not removed", where=str(entry.path))
        with ExitStack() as stack:
            if entry.condition in ("interrupted", "failed"):
                stack.enter_context(writing(lock_of(entry.path), "this run", entry.path))
            freed += entry.bytes
            remove(entry.path, within=results)
        if entry.condition == "replaced" and not any(entry.path.parent.iterdir()):
            remove(entry.path.parent, within=results)
    for lock in (results / LOCKS).glob("*.lock") if entries else ():
        if not (results / lock.stem).exists() and not is_held(lock):
            remove(lock, within=results)
    return freed


def named(entries: Sequence[RunEntry], names: Sequence[str]) -> list[RunEntry]:
    """The entries to remove: all removable ones, or the incomplete ones with these names.

    Raises:
        BadInputError: a name is unknown, or only names a complete run.
    """
    if not names:
        return [one for one in entries if one.removable]
    chosen: list[RunEntry] = []
    for name in names:
        meant = [one for one in entries if name in (one.name, str(one.path), one.path.name)]
        if not meant:
            raise BadInputError(f"there is no run '{name}' here", remedy="`harness runs` lists all runs")
        rest = [one for one in meant if one.condition not in ("complete", "running")]
        if not rest:
            raise BadInputError(
                f"'{name}' is {meant[0].condition}, so it is not removed",
                where=str(meant[0].path),
                remedy="remove the folder yourself if you are sure",
            )
        chosen += rest
    return list(dict.fromkeys(chosen))


def restore(results: Path, name: str) -> Path:
    """Restore the latest replaced run of a name; the run in its place is set aside instead.

    Args:
        results: the folder of runs.
        name: a run's name, or the path of a replaced run (as `harness runs` shows it).

    Returns:
        The folder of the restored run.

    Raises:
        BadInputError: no replaced run has the name, or what is in its place is not a run.
        BusyError: a process writes to it.
    """
    kept = [one for one in survey_all(results) if one.condition == "replaced"]
    meant = [one for one in kept if name in (one.name, str(one.path), one.path.name)]
    meant = meant or [one for one in kept if one.path.resolve() == Path(name).resolve()]
    if not meant:
        known = ", ".join(dict.fromkeys(one.name for one in kept))
        raise BadInputError(
            f"there is no replaced run '{name}'",
            where=str(results / REPLACED),
            remedy=f"replaced runs: {known}" if known else "`harness runs` lists all runs",
        )
    path = max(one.path for one in meant)
    if path.parent.parent.resolve() != results.resolve():  # answers
        folder = path.parent.parent
        with writing(folder / ".responses.lock", "these responses", folder):
            bring_answers_back(path)
        return folder
    target = results / aside_name(path)
    with writing(lock_of(target), "this run", target):
        state = state_of(target, held=False)
        if state.condition == "foreign":
            raise BadInputError(
                "its place is taken by something that is not a run of the harness",
                where=str(target),
                remedy="move it away",
            )
        if state.condition == "nothing":
            remove(target, within=results)
        else:
            put_aside(target, within=results)
        move(path, target, within=results)
    return target


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count as themselves."""
    total = 0
    pending = [path]
    while pending:
        at = pending.pop()
        try:
            if at.is_dir() and not at.is_symlink():
                pending.extend(Path(one.path) for one in os.scandir(at))
            else:
                total += at.lstat().st_size
        except OSError:  # removed meanwhile, or no permission
            continue
    return total


def _runs(results: Path) -> Iterator[RunEntry]:
    for path in sorted(results.iterdir()):
        if path.name.startswith(".") or not path.is_dir() or not is_run(path):
            continue
        state = state_of(path)
        manifest = read_object(path / MANIFEST) or {}
        note, finished = state.reason, str(manifest.get("finished", ""))
        if state.condition == "complete":
            config = manifest.get("config")
            config = config if isinstance(config, dict) else {}
            note = " on ".join(str(config[key]) for key in ("method", "model") if key in config)
        elif state.steps:
            note = f"{state.steps} steps" + (f"; {state.reason}" if state.reason else "")
        condition = cast("Condition", state.condition)  # empty folders and folders that are not runs were skipped above
        yield RunEntry(path.name, path, condition, note, condition == "failed", finished)


def _aside(results: Path) -> Iterator[RunEntry]:
    """Whole runs that were replaced."""
    for path in sorted((results / REPLACED).glob("*.*")):
        name = aside_name(path)
        inside, instead = state_of(path, held=False), state_of(results / name)
        spare = instead.condition == "complete" or inside.condition == "failed"
        note = f"{inside.condition}; replaced by: {'nothing' if instead.condition == 'nothing' else f'a run, {instead.condition}'}"
        yield RunEntry(name, path, "replaced", note, spare)


def _answers_aside(results: Path) -> Iterator[RunEntry]:
    """Answers that were generated again."""
    for pattern in _ANSWERS:
        for path in sorted(results.glob(f"{pattern}/{REPLACED}/*")):
            folder = path.parent.parent
            if any(part == REPLACED for part in folder.relative_to(results).parts):
                continue  # of a run that was replaced as a whole
            scored = next(folder.glob("scores*.json"), None) or (folder / "shard.json").exists()
            note = f"answers; replaced by: {'newer ones, complete' if scored else 'nothing complete'}"
            yield RunEntry(folder.relative_to(results).as_posix(), path, "replaced", note, bool(scored))


def _left_over(results: Path) -> Iterator[RunEntry]:
    """Temporary files and folders of writers that were killed: an export, or a run that was being removed."""
    for path in sorted(results.iterdir()):
        if _TEMPORARY.fullmatch(path.name) and path.name not in (LOCKS, REPLACED):
            half = path.name.endswith(REMOVED)
            dead = path.name.endswith(SUFFIX) and is_unheld(path)
            note = "not complete: from a process that was killed, or that is writing now"
            if half or dead:
                note = "was being removed" if half else "not complete: from a process that was killed"
            yield RunEntry(path.name, path, "leftover", note, half or dead)
