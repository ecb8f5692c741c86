"""Running steps as jobs of a Slurm cluster, through submitit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError
from harness.core.gpus import has_gpu
from harness.core.packages import need_package
from harness.core.yaml_values import parse_yaml
from harness.experiments.workers import run_command

LOCAL = "local"
_SHARED = {"timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "name"}
"""submitit's parameters for every cluster; all others are Slurm's."""
_TOGETHER = 0.5
"""Seconds without a further step after which the submitted ones become one array."""
_DAY = 24 * 60


class OnSlurm:
    """Submits the steps that are ready at the same time as one array. All machines must see the working directory and the results."""

    def __init__(self, options: Sequence[str], folder: Path) -> None:
        """Check the options; nothing is submitted yet.

        Args:
            options: `KEY=VALUE`: submitit's parameters (timeout_min, gpus_per_node, ...), those of sbatch (partition, account, ...), and
            array_parallelism; or `local`, which runs the jobs as processes of this machine (with `gpus_per_node` one at a time).
            folder: of submitit's files.

        Raises:
            BadInputError: an option is wrong, or this machine cannot submit jobs.
            MissingPackageError: submitit is not installed.
        """
        need_package("submitit", "--slurm")
        import submitit

        local = LOCAL in options
        parameters = _parameters([option for option in options if option != LOCAL], submitit)
        if local:
            parameters.setdefault("timeout_min", _DAY)
            _check_gpus(parameters)
        elif "timeout_min" not in parameters and "slurm_time" not in parameters:
            raise BadInputError(
                "--slurm needs the time after which Slurm may end a step",
                remedy="--slurm timeout_min=240 (minutes); a step that was ended is resumed by the next command",
            )
        # Every local job with GPUs gets the same ones, the machine's first.
        beside = 1 if parameters.get("gpus_per_node") else os.cpu_count() or 1
        self.capacity = beside if local else 10_000
        self.shares_cores, self.shows_progress = local, False
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=LOCAL if local else "slurm")
            self._executor.update_parameters(**parameters)
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
            raise BadInputError(
                f"jobs cannot be submitted: {str(error).splitlines()[0][:300]}",
                where="--slurm",
                remedy="run the command where srun and sbatch are; --slurm local runs the jobs on this machine",
            ) from error
        self._lock = threading.Lock()
        self._waiting: list[tuple[tuple[Any, ...], Future[str | None]]] = []
        self._newest = 0.0
        self._running: list[tuple[Any, Future[str | None]]] = []
        self._ended = threading.Event()
        self._every = 0.1 if local else 2.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def submit(self, command: Sequence[str], log: Path, *, alone: bool = False) -> Future[str | None]:
        """See `Workers`. What is submitted within half a second becomes one array."""
        future: Future[str | None] = Future()
        with self._lock:
            self._waiting.append(((list(command), log.resolve(), Path.cwd()), future))
            self._newest = time.monotonic()
        return future

    def close(self) -> None:
        """Stop watching, and cancel the jobs that have not ended."""
        self._ended.set()
        self._thread.join()
        for job, _ in self._running:
            job.cancel(check=False)

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            with self._lock:
                ready: list[tuple[tuple[Any, ...], Future[str | None]]] = []
                if self._waiting and time.monotonic() - self._newest > _TOGETHER:
                    ready, self._waiting = self._waiting, []
            if ready:
                self._start(ready)
            for job, future in list(self._running):
                if job.done():
                    self._running.remove((job, future))
                    future.set_result(_result(job))

    def _start(self, ready: Sequence[tuple[tuple[Any, ...], Future[str | None]]]) -> None:
        jobs: list[Any] = []
        try:
            with self._executor.batch():
                jobs += [self._executor.submit(run_command, *arguments) for arguments, _ in ready]
        except Exception as error:  # noqa: BLE001 (whatever submitit or sbatch say is why the steps failed)
            for _, future in ready:
                future.set_result(f"sbatch: {error}")
            return
        self._running += [(job, future) for job, (_, future) in zip(jobs, ready, strict=True)]


def _parameters(options: Sequence[str], submitit: Any) -> dict[str, Any]:
    """submitit's parameters; what neither it nor its Slurm executor knows is passed to sbatch.

    Raises:
        BadInputError: an option has another form.
    """
    known = submitit.SlurmExecutor._valid_parameters()
    parameters: dict[str, Any] = {}
    more: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        key = key.strip().removeprefix("slurm_").replace("-", "_")
        if not equals or not key.isidentifier():
            raise BadInputError(
                f"--slurm takes KEY=VALUE or local, not '{option}'",
                remedy="--slurm partition=gpu --slurm timeout_min=240",
            )
        value = parse_yaml(text, f"the value of --slurm {key}", None)
        if key in _SHARED:
            parameters[key] = value
        elif key in known:
            parameters[f"slurm_{key}"] = value
        else:
            more[key.replace("_", "-")] = value
    return parameters | ({"slurm_additional_parameters": more} if more else {})


def _check_gpus(parameters: Mapping[str, Any]) -> None:
    """Raise an error where local jobs would compute on the CPU beside a GPU: submitit hides GPUs from them unless it is told a number."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if "gpus_per_node" not in parameters and not hidden and has_gpu():
        raise BadInputError(
            "this machine has a GPU, and local jobs do not see it unless they ask for one",
            where="--slurm local",
            remedy="--slurm gpus_per_node=1; to compute on the CPU, --slurm gpus_per_node=0",
        )


def _result(job: Any) -> str | None:
    """None, or why a job that has ended failed."""
    error = job.exception()
    if error is None:
        result: str | None = job.result()
        return result
    return f"job {job.job_id}: {str(error).strip()[-1_500:]}"
