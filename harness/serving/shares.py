"""Dividing a machine among several engines: each gets its own GPUs or cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.core.errors import BadInputError

_GPUS = "CUDA_VISIBLE_DEVICES"
T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """What one engine may use; empty: no restriction.

    Attributes:
        gpus: entries of `CUDA_VISIBLE_DEVICES`.
        cores: on a CPU, the core numbers of each of its workers.
    """

    gpus: tuple[str, ...] = ()
    cores: tuple[tuple[int, ...], ...] = ()

    def environment(self, environment: dict[str, str]) -> dict[str, str]:
        """The environment of its process. (The process itself binds to its cores, see `harness.serving.vllm_worker`.)"""
        return environment | ({_GPUS: ",".join(self.gpus)} if self.gpus else {})


def shares(engines: int, workers: int) -> list[Share]:
    """Equal shares of this machine for `engines` engines with `workers` workers each; a single engine gets everything.

    Raises:
        BadInputError: there are fewer GPUs, or without a GPU fewer cores, than workers.
    """
    if engines == 1:
        return [Share()]
    import torch

    if torch.cuda.is_available():
        named = os.environ.get(_GPUS)
        gpus = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
        return gpu_shares(gpus, engines, workers)
    if not hasattr(os, "sched_getaffinity"):  # processes cannot be bound on this system
        return [Share()] * engines
    return core_shares(sorted(os.sched_getaffinity(0)), engines, workers)


def gpu_shares(gpus: Sequence[str], engines: int, workers: int) -> list[Share]:
    """One GPU per worker; remaining GPUs stay idle.

    Raises:
        BadInputError: there are too few.
    """
    _check(len(gpus), engines, workers, "GPUs")
    return [Share(gpus=tuple(part)) for part in _parts(gpus, engines, workers)]


def core_shares(cores: Sequence[int], engines: int, workers: int) -> list[Share]:
    """Equally many adjacent cores for each worker.

    Raises:
        BadInputError: there are fewer cores than workers.
    """
    _check(len(cores), engines, workers, "cores")
    own = len(cores) // (engines * workers)
    return [
        Share(cores=tuple(map(tuple, _parts(part, workers, own)))) for part in _parts(cores, engines, workers * own)
    ]


def _parts(values: Sequence[T], count: int, size: int) -> list[Sequence[T]]:
    return [values[number * size : (number + 1) * size] for number in range(count)]


def _check(present: int, engines: int, workers: int, what: str) -> None:
    if present < engines * workers:
        raise BadInputError(
            f"{engines} engines of {workers} workers each need {engines * workers} {what}, but this machine has {present}",
            where="backend.data_parallel_size, times tensor_parallel_size and pipeline_parallel_size",
            remedy="use fewer, or split the suite over several machines: --shard I/N, then harness merge",
        )
