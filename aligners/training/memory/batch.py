"""Dividing a batch among processes and into passes, and a stage's examples into steps."""

from __future__ import annotations

import math

from harness.core.config import TrainSettings
from harness.core.errors import BadInputError


def accumulation(settings: TrainSettings, processes: int = 1) -> tuple[int, int]:
    """(examples per forward pass, passes per step) of each process: the largest micro-batch that divides its part of the batch.

    Raises:
        BadInputError: the batch cannot be split over so many processes.
    """
    share = share_of_batch(settings, processes)
    micro = next(size for size in range(min(settings.micro, share), 0, -1) if share % size == 0)
    return micro, share // micro


def share_of_batch(settings: TrainSettings, processes: int) -> int:
    """Examples of each process in a step.

    Raises:
        BadInputError: the batch cannot be split over so many processes.
    """
    if settings.batch_size % processes:
        raise BadInputError(
            f"a batch of {settings.batch_size} examples cannot be divided among {processes} processes",
            remedy=f"--set train.batch_size={math.ceil(settings.batch_size / processes) * processes}",
        )
    return settings.batch_size // processes


def steps_of(examples: int, settings: TrainSettings) -> int:
    """Number of optimizer steps of a stage with `examples` examples."""
    return max(1, math.ceil(math.ceil(examples / settings.batch_size) * settings.epochs))
