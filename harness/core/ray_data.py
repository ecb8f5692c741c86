"""Running the tasks of a command with Ray Data: on the cluster of RAY_ADDRESS, or with workers on this machine."""

from __future__ import annotations

import logging
import os
import pickle
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError, HarnessError

_FAILED = "failed"
"""Column with the error of a task."""


def check_ray(instead: str) -> None:
    """Raise an error if Ray is not installed; `instead` says what to do without it.

    Raises:
        BadInputError: Ray is not installed.
    """
    try:
        import ray  # noqa: F401
    except ImportError:
        raise BadInputError(
            "--ray needs Ray Data, which is not installed",
            remedy=f"pip install 'vlm-align-harness[ray]', or {instead}",
        ) from None


class _InFolder:
    """Runs in an actor: the worker, in the working folder of the command. An actor begins where Ray was started, and the paths of a task
    may be relative. Our errors come back as rows, because Ray leaves the cause of an error behind."""

    def __init__(self, worker: type) -> None:
        self._worker = worker()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._run(row)
        except HarnessError as error:
            return {_FAILED: pickle.dumps(error)}

    def _run(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            os.chdir(row["folder"])
        except OSError as error:
            raise HarnessError(
                f"a Ray worker cannot enter the folder that the command runs in: {error.strerror}",
                where=f"{row['folder']} on {platform.node()}",
                remedy="run the command in a folder that all machines of the cluster see",
            ) from None
        result: dict[str, Any] = self._worker(row)
        return result


def results_of(worker: type, tasks: Sequence[bytes], workers: int, *, gpus: float) -> Iterator[dict[str, Any]]:
    """Yield what each task gives, as they end. Workers run in the working folder of this process, which all machines must see.

    Args:
        worker: class of the actors; an instance is called with a row whose "task" is one of the tasks, and returns a row.
        tasks: one row each.
        workers: number of actors.
        gpus: for each actor, if the cluster has any.

    Raises:
        HarnessError: the error of an actor, or of Ray; or a machine of the cluster does not see the working folder.
    """
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if not ray.is_initialized():
        # One core more than workers: Ray Data's own steps must never wait for an actor to end.
        local: dict[str, Any] = {"num_cpus": workers + 1, "include_dashboard": False}
        options = {} if os.environ.get("RAY_ADDRESS") else local
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    ray.data.DataContext.get_current().enable_progress_bars = False
    gpus = gpus if ray.cluster_resources().get("GPU") else 0
    rows = [{"task": task, "folder": str(Path.cwd())} for task in tasks]
    done = ray.data.from_items(rows, override_num_blocks=len(tasks)).map(
        _InFolder,
        fn_constructor_args=(worker,),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus,
    )
    try:
        for row in done.iter_rows():
            if row.get(_FAILED) is not None:
                raise pickle.loads(row[_FAILED])
            yield row
    except ray.exceptions.RayError as error:
        raise _cause(error) from None


def _cause(error: BaseException) -> HarnessError:
    """Our error that Ray wrapped, or Ray's error as one of ours."""
    wrapped: BaseException | None = error
    while wrapped is not None:
        if isinstance(wrapped, HarnessError):
            return wrapped
        wrapped = getattr(wrapped, "cause", None) or wrapped.__cause__
    return HarnessError(
        f"Ray stopped: {str(error).strip().splitlines()[-1][:300]}",
        remedy="run the same command again; it resumes",
    )
