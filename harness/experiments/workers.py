"""Where the commands of an experiment's steps run: in this process, in several processes, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from harness.core.errors import BadInputError, HarnessError
from harness.core.plugins import blame
from harness.experiments.warm import WarmProcess

_TAIL = 1_500
"""Number of characters of a failed command's last output that its record keeps."""


class Workers(Protocol):
    """Runs commands, at most `capacity` at a time."""

    capacity: int
    shares_cores: bool
    """Whether commands that run at the same time share one machine's cores: a step that makes a world then runs alone, with all of them."""
    shows_progress: bool
    """Whether the commands show their progress on this process's standard error. Otherwise it is only in their logs."""

    def submit(self, command: Sequence[str], log: Path, *, alone: bool = False) -> Future[str | None]:
        """Start a command, whose standard output goes to a file. The future's result is None, or why the command failed. `alone`: no
        other command is running, nor will be before this one has ended."""

    def close(self) -> None:
        """Stop everything that was started for the commands."""


class Here:
    """Runs the commands one after the other in this process."""

    capacity = 1
    shares_cores = False
    shows_progress = True

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
    shows_progress = False

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
    shows_progress = False

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
