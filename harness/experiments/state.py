"""The state of an experiment: one small record per step, written when the step ends, and a lock while a process runs it."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from harness.core.errors import BadInputError
from harness.core.files import write_json
from harness.core.locks import is_held
from harness.core.reading import read_json
from harness.core.record import check
from harness.core.terminal import one_line
from harness.experiments.evaluated import Evaluated
from harness.experiments.graph import Plan
from harness.experiments.records import DoneStepFile, RunningFile
from harness.experiments.step import RUNS, WORLDS, Step
from harness.runs.folders import MANIFEST, open_run
from harness.runs.state import lock_of

State = Literal["done", "failed", "changed", "waiting", "running"]
_LOCK = ".experiment.lock"
_RUNNING = "running.json"
_TAIL = 4_096
"""Number of bytes at the end of a log in which its last line is looked for."""


@dataclass(frozen=True)
class StepRecord:
    """The state of a step: `changed` was done with other settings, or its scores were replaced since; `failed` had an error. `seconds`:
    what it took, or took so far."""

    state: State
    seconds: float | None = None
    error: str | None = None
    says: str = ""
    """The last line of a running step's log."""


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
            for left in self.path.rglob(_RUNNING):  # by a killed process
                ExperimentFolder(left.parent, self.results).keep_running({})
            yield
        finally:
            lock.release()

    @property
    def is_running(self) -> bool:
        """Whether a process holds the lock; False in another user's folder, whose lock cannot be tried."""
        return is_held(self.path / _LOCK)

    def record(self, step: Step) -> StepRecord:
        """The record of a step."""
        # What it makes decides, because another experiment may have made it.
        if step.makes and _is_complete(step, self.results):
            kept = self._kept(step)
            return StepRecord("done", kept.seconds if kept else None)
        kept = self._kept(step)
        mine = kept is not None and kept.key == step.key
        # Another scheduler may have run its command, or another experiment may have asked the same.
        if step.asked is not None and step.asked.is_complete(self.results / RUNS):
            return StepRecord("done", kept.seconds if kept is not None and mine else None)
        if kept is None:
            return StepRecord("waiting")
        if not mine or (kept.state == "done" and step.asked is not None and not self._has_scores(step.asked, kept)):
            return StepRecord("changed")
        state: State = "done" if kept.state == "done" and not step.makes else "failed"
        return StepRecord(state, kept.seconds, kept.error)

    def _has_scores(self, asked: Evaluated, kept: DoneStepFile) -> bool:
        """Whether the scores of an evaluation are still those that it wrote. Another experiment may have scored its runs on fewer
        questions, or have made them again. Of a record without hashes, which an earlier version wrote, the files must be there."""
        present = asked.scored(self.results / RUNS)
        if kept.scored is None:
            return not asked.lacks(self.results / RUNS, present)
        return all(present.get(path) == value for path, value in kept.scored.items())

    def is_busy(self, step: Step) -> bool:
        """Whether a process is writing what a step makes, or answers of the runs that it scores. Before the step has begun, it is one of
        another experiment or another command."""
        if step.asked is not None:
            return any(map(is_held, step.asked.locks(self.results / RUNS)))
        if not step.makes:
            return False
        made = self.results / step.makes  # of a run, of a set of pairs, of an exported checkpoint
        return any(map(is_held, (lock_of(made), *made.glob(".*.lock"), made.with_name(f".{made.name}.lock"))))

    def scored_runs(self, step: Step) -> set[str]:
        """The runs that an evaluation scored, by its record, also if it failed because others were missing; none for other steps."""
        kept = self._kept(step)
        if kept is None or kept.key != step.key:
            return set()
        return {path.partition("/evals/")[0] for path in kept.scored or {}}

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
        path = self._log_file(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _log_file(self, step: Step) -> Path:
        return self.path / "steps" / f"{step.name}.log"

    def last_line(self, step: Step) -> str:
        """The last line that a step wrote into its log; empty if there is none."""
        with contextlib.suppress(OSError), self._log_file(step).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            lines = stream.read().decode("utf-8", errors="replace").split("\n")
            return one_line(next((line for line in reversed(lines) if line.strip()), ""))
        return ""

    def keep_running(self, begun: Mapping[str, float]) -> None:
        """Store which steps are running, for `with_running`.

        Args:
            begun: when each began, in seconds since 1970, by its name.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / _RUNNING, RunningFile(begun=dict(begun)).written())

    def keep(
        self,
        step: Step,
        state: Literal["done", "failed"],
        seconds: float,
        error: str | None = None,
        *,
        has_scores: bool,
    ) -> None:
        """Store how a step ended.

        Args:
            step: the step.
            state: how it ended.
            seconds: that it took.
            error: why it failed.
            has_scores: whether an evaluation scored at least some of its runs: those that there were, if the step failed because others
                were missing.
        """
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
                **({"scored": step.asked.scored(self.results / RUNS)} if step.asked and has_scores else {}),
            ).written(),
        )

    def table(self, plan: Plan) -> Sequence[tuple[Step, StepRecord]]:
        """Every step with its record; a finished evaluation is outdated if its runs are not done. A world is made if a step that needs it
        is done: whoever ran the step's command made the world, too."""
        records: dict[str, StepRecord] = {}
        for step in plan.steps:
            record = self.record(step)
            if record.state == "done" and not step.makes and any(records[need].state != "done" for need in step.needs):
                record = StepRecord("changed")
            records[step.name] = record
        used = {need for step in plan.steps if records[step.name].state == "done" for need in step.needs}
        for step in plan.steps:
            if step.kind == "world" and step.name in used and records[step.name].state == "waiting":
                records[step.name] = StepRecord("done")
        return [(step, records[step.name]) for step in plan.steps]

    def with_running(self, rows: Sequence[tuple[Step, StepRecord]]) -> Sequence[tuple[Step, StepRecord]]:
        """Rows of this experiment or of its searches, with the state of the steps that a process is running now."""
        if not self.is_running:
            return rows
        running: dict[str, tuple[ExperimentFolder, float]] = {}
        for path in self.path.rglob(_RUNNING):
            begun = check(RunningFile, read_json(path, "running steps"), "running steps", path).begun
            running |= {name: (ExperimentFolder(path.parent, self.results), moment) for name, moment in begun.items()}
        return [
            (step, _so_far(step, *running[step.name]) if step.name in running and record.state != "done" else record)
            for step, record in rows
        ]


def _so_far(step: Step, folder: ExperimentFolder, begun: float) -> StepRecord:
    return StepRecord("running", max(0.0, time.time() - begun), says=folder.last_line(step))


def _is_complete(step: Step, results: Path) -> bool:
    """Whether the folder that a step makes is complete."""
    if step.kind == "align":
        return open_run(results / step.makes).manifest is not None
    return (results / step.makes / MANIFEST).is_file()
