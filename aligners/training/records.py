"""Files that a training writes in its run's folder."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from harness.core.record import Record

TEXT, IMAGE = "held_out_text", "held_out_image"
"""The margins on held-out pairs in the training log, where they were measured after the step."""


class StepFile(Record):
    """`step.json`: how steps are computed; an interrupted run is resumed with the same."""

    micro_batch_size: Annotated[int, Field(ge=1)] = Field(description="examples per forward pass")
    gradient_checkpointing: bool = Field(description="whether activations are computed again in the backward pass")


class LogRow(Record):
    """A row of `train_log.jsonl`, one per step; the other keys are the step's metrics, means over its examples."""

    stage: str
    step: int = Field(description="in the stage, from 1")
    learning_rate: float | None = None
    examples_per_second: float | None = None
    tokens_per_second: float | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the step."""
        return self.model_extra or {}

    def metric(self, name: str) -> float | None:
        """A metric of the step; None if it has none of this name, or it is no number."""
        value = self.metrics.get(name)
        return float(value) if isinstance(value, int | float) else None
