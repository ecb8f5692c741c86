"""Running the remaining steps of an experiment in order, and telling what the running ones do."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from harness.core.progress import duration, spinner
from harness.experiments.graph import Plan
from harness.experiments.rounds import ANSWERS_OF, without_answers
from harness.experiments.state import ExperimentFolder
from harness.experiments.step import RUNS, Step
from harness.experiments.workers import Workers
from harness.runs.folders import open_run

logger = logging.getLogger(__name__)

_TICK = 2.0
"""Seconds between two looks at the logs of running steps."""
_REFUSALS = 5
"""How often a step is begun again that another process began at the same time; then its error counts, which may have another reason."""
_SHOWN = 2
"""Number of running steps whose last lines the progress shows; the others are counted."""


def run_steps(plan: Plan, folder: ExperimentFolder, workers: Workers) -> dict[str, str]:
    """Run the remaining steps in order, as many at a time as the workers allow. A failed step does not stop the others; later steps
    leave out the runs that it should have made.

    Returns:
        Names of the steps that failed or could not start, with the reason.
    """
    execution = _Execution(plan, folder, workers)
    shown = contextlib.nullcontext(_silent) if workers.shows_progress else spinner("steps")
    with shown as show:
        while execution.goes_on:
            execution.start_ready()
            execution.wait(show)
    return execution.failed


def _silent(note: str) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class _Running:
    """A running step."""

    step: Step
    lost: Sequence[str]
    """The steps that it needed, and that failed."""
    began: float
    """In seconds since 1970."""
    clock: float
    """When it began, by `time.perf_counter`, which nobody sets."""

    @property
    def seconds(self) -> float:
        """The time so far."""
        return time.perf_counter() - self.clock


class _Execution:
    """The steps of a plan while they are run."""

    def __init__(self, plan: Plan, folder: ExperimentFolder, workers: Workers) -> None:
        self._folder, self._workers = folder, workers
        records = {step.name: record for step, record in folder.table(plan)}
        self._waiting = [step for step in plan.steps if records[step.name].state != "done"]
        self._done = {name for name, record in records.items() if record.state == "done"}
        self._total, self.failed = len(self._waiting), dict[str, str]()
        self._runs = {step.name: step.run for step in plan.steps}
        self._under_way: dict[Future[str | None], _Running] = {}
        self._held_back: set[str] = set()
        """Steps that could start, but whose files another process is writing."""
        self._refused: Counter[str] = Counter()
        """Step -> how often it was begun at the same time as by another process."""
        changed = [step.name for step in self._waiting if records[step.name].state == "changed"]
        again = f" ({len(changed)} of them are run again)" if changed else ""
        logger.info(f"{len(self._done)} steps are done, {self._total} remain{again}")

    @property
    def goes_on(self) -> bool:
        """Whether a step is running or can still start."""
        return bool(self._waiting or self._under_way)

    def start_ready(self) -> None:
        """Start the steps for which there is room and that wait for no other one; give up those of which nothing is left. Another
        experiment may have done a step meanwhile, which is then done here, too, or be at work on it, which is waited for."""
        for step in list(self._waiting):
            lost = [need for need in step.needs if need in self.failed]
            if lost and (len(lost) == len(step.needs) or not step.does_without):
                self.failed[step.name] = f"it needs {', '.join(lost)}, which failed"
                self._waiting.remove(step)
            elif self._has_room(step) and all(
                name in self._done or name in self.failed for name in (*step.needs, *step.after)
            ):
                if self._is_held_back(step):
                    continue
                self._waiting.remove(step)
                if self._is_made(step):
                    logger.info(f"step {step.name} was done by another process meanwhile")
                    self._done.add(step.name)
                else:
                    self._start(step, lost)

    def _is_held_back(self, step: Step) -> bool:
        """Whether another process is at work on a step; said once."""
        if not self._folder.is_busy(step):
            self._held_back.discard(step.name)
            return False
        if step.name not in self._held_back:
            logger.info(f"waiting: another process is at work on step {step.name}")
        self._held_back.add(step.name)
        return True

    def _is_made(self, step: Step) -> bool:
        """Whether what a step makes is there now. Evaluations are not asked about: each experiment has its own."""
        return (bool(step.makes) or step.kind == "world") and self._folder.record(step).state == "done"

    def _has_room(self, step: Step) -> bool:
        """Whether a step can start beside those that are running."""
        kinds = [running.step.kind for running in self._under_way.values()]
        if self._workers.shares_cores and kinds and "world" in (step.kind, *kinds):
            # A small model trains on two cores more than twice as fast as on one, so two side by side take longer than one by one.
            return False
        return len(kinds) < self._workers.capacity

    def _start(self, step: Step, lost: Sequence[str]) -> None:
        logger.info(f"step {self._total - len(self._waiting)} of {self._total}: {step.name}: {step.about}")
        command = _without(with_resume(step, self._folder), {self._runs[need] for need in lost})
        if ANSWERS_OF in command and any(name in self.failed for name in step.after):
            command = without_answers(command)
        log = self._folder.log(step)
        log.write_bytes(b"")  # without what an earlier try said: a job that waits in a queue has said nothing yet
        running = _Running(step, lost, time.time(), time.perf_counter())
        self._keep_running([*self._under_way.values(), running])  # before the command, which may run in this process
        alone = self._workers.shares_cores and step.kind == "world"
        self._under_way[self._workers.submit(command, log, alone=alone)] = running

    def wait(self, show: Callable[[str], None]) -> None:
        """Wait for the first step that ends, and keep how it and others ended."""
        ready: set[Future[str | None]] = set()
        if self._held_back and not self._under_way:
            show("; ".join(self._state()))
            time.sleep(_TICK)
        while self._under_way and not ready:
            ready, _ = wait(self._under_way, timeout=_TICK, return_when=FIRST_COMPLETED)
            show("; ".join(self._state()))
            if self._held_back:  # they may be free now
                break
        for future in ready:
            running = self._under_way.pop(future)
            self._end(running, future.result())
        self._keep_running(list(self._under_way.values()))

    def _end(self, running: _Running, error: str | None) -> None:
        name = running.step.name
        tries = self._refused[name] < _REFUSALS
        if error and tries and (self._folder.is_busy(running.step) or self._is_made(running.step)):
            self._refused[name] += 1
            logger.warning(f"step {name} was refused, because another process began it at the same time: {error}")
            self._waiting.append(running.step)
            return
        has_scores = error is None
        if running.lost and not error:
            error = f"done without {', '.join(running.lost)}, which failed"
        self._folder.keep(running.step, "failed" if error else "done", running.seconds, error, has_scores=has_scores)
        if error:
            self.failed[name] = error
            logger.warning(f"step {name} failed: {error}")
        else:
            self._done.add(name)

    def _state(self) -> Iterator[str]:
        """How many steps have ended, and what the running ones say."""
        ended = self._total - len(self._waiting) - len(self._under_way)
        yield f"{ended} of {self._total} have ended"
        running = list(self._under_way.values())
        for entry in running[:_SHOWN]:
            said = self._folder.last_line(entry.step)
            yield f"{entry.step.name} for {duration(entry.seconds)}" + (f": {said}" if said else "")
        if len(running) > _SHOWN:
            yield f"{len(running) - _SHOWN} more"
        if self._held_back:
            yield f"{len(self._held_back)} wait for another process"

    def _keep_running(self, running: Sequence[_Running]) -> None:
        self._folder.keep_running({entry.step.name: entry.began for entry in running})


def _without(command: list[str], runs: set[str]) -> list[str]:
    """An evaluation's command without the missing runs."""
    if not runs:
        return command
    place = command.index("--run") + 1
    return [
        *command[:place],
        ",".join(run for run in command[place].split(",") if run.partition("/")[0] not in runs),
        *command[place + 1 :],
    ]


def with_resume(step: Step, folder: ExperimentFolder) -> list[str]:
    """The step's command as it can be run now: with --resume if its run was begun before."""
    begun = step.kind == "align" and (folder.results / RUNS / step.run / "config.json").exists()
    if begun and open_run(folder.results / RUNS / step.run).manifest is None:
        return [*step.command, "--resume"]
    return list(step.command)
