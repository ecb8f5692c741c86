"""Disk space of a training: intermediate checkpoints, stages' weights, and the final checkpoint; weights and moments, without the few
megabytes of tokenizers and logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aligners.training.memory.batch import steps_of
from aligners.training.memory.footprint import Architecture
from harness.core.config import TrainSettings

if TYPE_CHECKING:
    from aligners.base import Stage

_NUMBER = 4
"""Bytes per number: trained weights, their moments and all full weights are stored in float32."""


@dataclass(frozen=True)
class DiskRoom:
    """Bytes on the disk.

    Attributes:
        checkpoint: size at the end: the checkpoint, and those of the stages if they are kept.
        most: the maximum at any time, from the first step to the end.
    """

    checkpoint: int
    most: int


def disk_room(model: Architecture, train: TrainSettings, steps: Sequence[int] = (1,)) -> DiskRoom:
    """Disk space of a training with these numbers of steps in its stages.

    While an intermediate checkpoint replaces the previous one, both exist: weights, and AdamW's two moments. The weights that a stage
    trained are also kept until the run is complete. A stage writes at least one checkpoint, after its last step.
    """
    trained, stages = model.trained * _NUMBER, len(steps)
    weights = trained if train.adapters else model.weights * _NUMBER
    kept = stages * weights if stages > 1 and train.keeps_stages else 0
    at_once = min(2, max(math.ceil(count / train.save_steps) for count in steps))
    under_way = at_once * (weights + 2 * trained)
    return DiskRoom(weights + kept, kept + stages * trained + max(under_way, weights))


def room_of_stages(model: Architecture, train: TrainSettings, stages: Sequence[Stage]) -> DiskRoom:
    """The same for known stages."""
    return disk_room(model, train, [steps_of(len(stage.examples), train) for stage in stages])


def still_to_write(room: DiskRoom, run: Path) -> int:
    """Bytes that are not in the run's folder yet; a resumed run has already written some."""
    written = sum(
        path.stat().st_size for part in ("stages", "checkpoint") for path in (run / part).rglob("*") if path.is_file()
    )
    return max(0, room.most - written)
