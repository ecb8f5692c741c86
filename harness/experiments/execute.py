"""Running the remaining steps: in this process, in several processes, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

from harness.core.errors import BadInputError, HarnessError
from harness.core.plugins import blame
from harness.experiments.graph import Plan
from harness.experiments.state import ExperimentFolder
from harness.experiments.step import RUNS, Step
from harness.experiments.warm import WarmProcess
from harness.runs.folders import open_run

logger = logging.getLogger(__name__)

_TAIL = 1_500
"""Number of characters of a failed command's last output that its record keeps."""


class Workers(Protocol):
    """Runs commands, at most `capacity` at a time."""

    capacity: int
    shares_cores: bool
    """Whether commands that run at the same time share one machine's cores: a step that makes a world then runs alone, with all of them."""

    def submit(self, command: Sequence[str], log: Path, *, alone: bool = False) -> Future[str | None]:
        """Start a command, whose standard output goes to a file. The future's result is None, or why the command failed. `alone`: no
        other command is running, nor will be before this one has ended."""

    def close(self) -> None:
        """Stop everything that was started for the commands."""


def run_steps(plan: Plan, folder: ExperimentFolder, workers: Workers) -> dict[str, str]:
    """Run the remaining steps in order, as many at a time as the workers allow. A failed step does not stop the others; later steps
    leave out the runs that it should have made.

    Returns:
        Names of the steps that failed or could not start, with the reason.
    """
    records = {step.name: record for step, record in folder.table(plan)}
    waiting = [step for step in plan.steps if records[step.name].state != "done"]
    done = {name for name, record in records.items() if record.state == "done"}
    total, failed = len(waiting), dict[str, str]()
    runs = {step.name: step.run for step in plan.steps}
    under_way: dict[Future[str | None], tuple[Step, list[str], float]] = {}
    changed = [step.name for step in waiting if records[step.name].state == "changed"]
    again = f" ({len(changed)} of them are run again)" if changed else ""
    logger.info(f"{len(done)} steps are done, {total} remain{again}")
    while waiting or under_way:
        for step in list(waiting):
            lost = [need for need in step.needs if need in failed]
            if lost and (len(lost) == len(step.needs) or not step.does_without):
                failed[step.name] = f"it needs {', '.join(lost)}, which failed"
                waiting.remove(step)
            elif _has_room(step, [other for other, _, _ in under_way.values()], workers) and all(
                name in done or name in failed for name in (*step.needs, *step.after)
            ):
                waiting.remove(step)
                number = total - len(waiting)
                logger.info(f"step {number} of {total}: {step.name}: {step.about}")
                command = _without(_with_resume(step, folder), {runs[need] for need in lost})
                alone = workers.shares_cores and step.kind == "world"
                under_way[workers.submit(command, folder.log(step), alone=alone)] = (step, lost, time.perf_counter())
        ready, _ = wait(under_way, return_when=FIRST_COMPLETED)
        for future in ready:
            step, lost, started = under_way.pop(future)
            error, seconds = future.result(), time.perf_counter() - started
            if lost and not error:
                error = f"done without {', '.join(lost)}, which failed"
            folder.keep(step, "failed" if error else "done", seconds, error)
            if error:
                failed[step.name] = error
                logger.warning(f"step {step.name} failed: {error}")
            else:
                done.add(step.name)
    return failed


def _has_room(step: Step, under_way: Sequence[Step], workers: Workers) -> bool:
    """Whether a step can start beside those that are running."""
    kinds = [other.kind for other in under_way]
    if workers.shares_cores and under_way and "world" in (step.kind, *kinds):
        # A small model trains on two cores more than twice as fast as on one, so two side by side take longer than one by one.
        return False
    return len(under_way) < workers.capacity


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


def _with_resume(step: Step, folder: ExperimentFolder) -> list[str]:
    """The step's command, with --resume if its run was begun before."""
    begun = step.kind == "align" and (folder.results / RUNS / step.run / "config.json").exists()
    if begun and open_run(folder.results / RUNS / step.run).manifest is None:
        return [*step.command, "--resume"]
    return list(step.command)


class Here:
    """Runs the commands one after the other in this process."""

    capacity = 1
    shares_cores = False

    def __init__(self, call: Callable[[list[str]], Any]) -> None:
        """`call` runs the arguments of `harness`, and raises its errors."""
        self._call = call

    def submit(self, command: Sequence[str], log: Path, *, alone: bool = False) -> Future[str | None]:
        """See `Workers`. Progress and notes stay on standard error."""
        future: Future[str | None] = Future()
        try:
            with log.open("w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
                self._call(list(command))
            future.set_result(None)
        except HarnessError as error:
            future.set_result(str(error))
        except Exception as error:  # noqa: BLE001 (a defect in one step is its failure; the others continue)
            future.set_result(str(blame(error) or f"{type(error).__name__}: {error}"))
        return future

    def close(self) -> None:
        """Nothing was started."""


def run_command(command: Sequence[str], log: Path, folder: Path) -> str | None:
    """Run a command in a separate process, with all its output in a file; returns None, or the end of the file if it failed.

    Args:
        command: arguments of `harness`.
        log: the file.
        folder: the working directory, for relative paths in the command; on a cluster, every machine must see it.
    """
    with log.open("w", encoding="utf-8") as stream:
        code = subprocess.run(
            [sys.executable, "-m", "harness", *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    return _outcome(code, log)


def _outcome(code: int, log: Path) -> str | None:
    """None, or the end of a failed command's output."""
    if code == 0:
        return None
    return f"exit code {code}: {log.read_text(encoding='utf-8', errors='replace').strip()[-_TAIL:]}"


class Processes:
    """Runs several processes on this machine; each gets its share of the cores, unless OMP_NUM_THREADS says otherwise."""

    shares_cores = True

    def __init__(self, count: int) -> None:
        self.capacity = count
        self._pool = ThreadPoolExecutor(count)
        self._idle: queue.SimpleQueue[WarmProcess] = queue.SimpleQueue()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = max(1, cores // count)

    def submit(self, command: Sequence[str], log: Path, *, alone: bool = False) -> Future[str | None]:
        """See `Workers`."""
        return self._pool.submit(run_command if alone else self._run, command, log, Path.cwd())

    def _run(self, command: Sequence[str], log: Path, folder: Path) -> str | None:
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            process = WarmProcess(self._threads)
        code = process.run(command, log, folder)
        if process.alive:
            self._idle.put(process)
        return _outcome(code, log)

    def close(self) -> None:
        """Wait for running commands, and end the processes."""
        self._pool.shutdown()
        while not self._idle.empty():
            self._idle.get().close()


class OnRay:
    """Runs commands as tasks of a Ray cluster, or of local workers. All machines must see the working directory and the results."""

    shares_cores = False

    def __init__(self, address: str, gpus: float, cpus: float = 1.0) -> None:
        """Connect to a cluster, or start workers here.

        Args:
            address: of the cluster (`auto`, `ray://HOST:10001`), or `local`.
            gpus: GPUs per step.
            cpus: CPU cores per step.

        Raises:
            BadInputError: Ray is not installed, or the cluster does not respond.
        """
        try:
            import ray
        except ImportError:
            raise BadInputError(
                "--ray needs Ray, which is not installed", remedy="pip install 'vlm-align-harness[ray]'"
            ) from None
        try:
            ray.init(
                address=None if address == "local" else address,
                log_to_driver=False,
                logging_level="ERROR",
                **({"include_dashboard": False} if address == "local" else {}),
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BadInputError(
                f"no Ray cluster responds: {str(error).splitlines()[0][:200]}",
                where=f"--ray {address}",
                remedy="start one (ray start --head), or use --ray local",
            ) from error
        self._ray = ray
        self._task = ray.remote(run_command).options(num_cpus=cpus, num_gpus=gpus)
        resources = ray.cluster_resources()
        by_cpu = int(resources.get("CPU", 1) // cpus)
        self.capacity = max(1, min(by_cpu, int(resources.get("GPU", 0) // gpus)) if gpus else by_cpu)

    def submit(self, command: Sequence[str], log: Path, *, alone: bool = False) -> Future[str | None]:
        """See `Workers`. If Ray reports a lost worker, the step has failed."""
        future: Future[str | None] = Future()

        def ended(inner: Future[str | None]) -> None:
            error = inner.exception()
            future.set_result(f"Ray: {str(error).strip().splitlines()[-1]}" if error else inner.result())

        self._task.remote(list(command), log.resolve(), Path.cwd()).future().add_done_callback(ended)
        return future

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()
