"""Running the tasks of a command with Ray Data: on the cluster of RAY_ADDRESS, or with workers on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from harness.core.errors import BadInputError, HarnessError


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


def results_of(worker: type, tasks: Sequence[bytes], workers: int, *, gpus: float) -> Iterator[dict[str, Any]]:
    """Yield what each task gives, as they end.

    Args:
        worker: class of the actors; an instance is called with {"task": one of the tasks}, and returns a row.
        tasks: one row each.
        workers: number of actors.
        gpus: for each actor, if the cluster has any.

    Raises:
        HarnessError: the error of an actor, or of Ray.
    """
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if not ray.is_initialized():
        # One core more than workers: Ray Data's own steps must never wait for an actor to end.
        local: dict[str, Any] = {"num_cpus": workers + 1, "include_dashboard": False}
        options = {} if os.environ.get("RAY_ADDRESS") else local
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    ray.data.DataContext.get_current().enable_progress_bars = False
    there = gpus if ray.cluster_resources().get("GPU") else 0
    done = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks)).map(
        worker, compute=ray.data.ActorPoolStrategy(size=workers), num_cpus=1, num_gpus=there
    )
    try:
        yield from done.iter_rows()
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
