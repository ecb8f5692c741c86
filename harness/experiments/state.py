"""The state of an experiment: one small record per step, written when the step ends, and a lock while a process runs it."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from harness.core.errors import BadInputError
from harness.core.files import write_json
from harness.core.reading import read_json
from harness.core.record import check
from harness.experiments.graph import Plan
from harness.experiments.records import DoneStepFile
from harness.experiments.step import WORLDS, Step
from harness.runs.folders import MANIFEST, open_run

State = Literal["done", "failed", "changed", "waiting"]
_LOCK = ".experiment.lock"


@dataclass(frozen=True)
class StepRecord:
    """The state of a step: `changed` was done with other settings, `failed` had an error."""

    state: State
    seconds: float | None = None
    error: str | None = None


class ExperimentFolder:
    """An experiment's folder: `steps/NAME.json`, the page, and a lock."""

    def __init__(self, path: Path, results: Path) -> None:
        self.path, self.results = path, results

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Context that locks this experiment. A killed process leaves no lock behind.

        Raises:
            BadInputError: another process holds the lock.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BadInputError(
                "another process is running this experiment",
                where=str(self.path),
                remedy="wait for it, show it with --status, or rename the file",
            ) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def is_running(self) -> bool:
        """Whether a process holds the lock."""
        if not (self.path / _LOCK).exists():
            return False
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def record(self, step: Step) -> StepRecord:
        """The record of a step."""
        # What it makes decides, because another experiment may have made it.
        if step.makes and _is_complete(step, self.results):
            kept = self._kept(step)
            return StepRecord("done", kept.seconds if kept else None)
        kept = self._kept(step)
        if kept is None:
            return StepRecord("waiting")
        if kept.key != step.key:
            return StepRecord("changed")
        state: State = "done" if kept.state == "done" and not step.makes else "failed"
        return StepRecord(state, kept.seconds, kept.error)

    def _kept(self, step: Step) -> DoneStepFile | None:
        path = self._record_file(step)
        if not path.exists():
            return None
        return check(DoneStepFile, read_json(path, "record of a step"), "record of a step", path)

    def _record_file(self, step: Step) -> Path:
        """The file of a step's record. A world is the same for all experiments and for every round of a search, so it is made once."""
        folder = self.results / WORLDS if step.kind == "world" else self.path / "steps"
        return folder / f"{step.name}.json"

    def log(self, step: Step) -> Path:
        """The file that a step's output goes to."""
        path = self.path / "steps" / f"{step.name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def keep(self, step: Step, state: Literal["done", "failed"], seconds: float, error: str | None = None) -> None:
        """Store how a step ended."""
        path = self._record_file(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            path,
            DoneStepFile(
                step=step.name,
                key=step.key,
                command=["harness", *step.command],
                state=state,
                seconds=round(seconds, 1),
                error=error,
                process=os.getpid(),
                finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            ).written(),
        )

    def table(self, plan: Plan) -> Sequence[tuple[Step, StepRecord]]:
        """Every step with its record; a finished evaluation is outdated if its runs are not done."""
        records: dict[str, StepRecord] = {}
        for step in plan.steps:
            record = self.record(step)
            if record.state == "done" and not step.makes and any(records[need].state != "done" for need in step.needs):
                record = StepRecord("changed")
            records[step.name] = record
        return [(step, records[step.name]) for step in plan.steps]


def _is_complete(step: Step, results: Path) -> bool:
    """Whether the folder that a step makes is complete."""
    if step.kind == "align":
        return open_run(results / step.makes).manifest is not None
    return (results / step.makes / MANIFEST).is_file()
