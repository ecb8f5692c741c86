"""What a training writes in its run's folder: how its steps are computed, its log, and the summary in the manifest."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from harness.core.record import AnyText, Number, Record, Value, Whole
from harness.records.balance_file import HeldOutRecord, Margins


class StepFile(Record):
    """`step.json`: how steps are computed and from what; an interrupted run is resumed with the same.

    Runs of earlier versions have none of the hashes.
    """

    micro_batch_size: Annotated[int, Field(ge=1)] = Field(description="examples per forward pass")
    gradient_checkpointing: bool = Field(description="whether activations are computed again in the backward pass")
    data: str | None = Field(None, description="hash of the preference data's contents")
    model: str | None = Field(None, description="hash of the weights that the training started from")
    method: str | None = Field(None, description="hash of the method's code, only of a plugin")


TEXT, IMAGE = "held_out_text", "held_out_image"
"""The margins on held-out pairs in the training log, where they were measured after the step."""


class LogRow(Record):
    """A row of `train_log.jsonl`, one per step; the other keys are the step's metrics, means over its examples."""

    stage: str
    step: int = Field(description="in the stage, from 1")
    learning_rate: float | None = Field(None, description="with which this step changed the weights")
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


class DataSummary(Record):
    """The preference data of a training."""

    label: AnyText | None = Field(None, description="as the data call themselves")
    location: AnyText | None = Field(None, description="absolute path of the file or folder, if the data are one")
    image_root: AnyText | None = Field(None, description="absolute path of --image-root")
    fingerprint: str = Field(description="hash of the examples' contents")
    examples: Whole = Field(description="number of examples trained on")
    dropped: Whole | None = Field(None, description="number of records that were skipped")
    unread_columns: dict[str, Whole] | None = Field(None, description="columns that nothing reads, with their counts")


class CanaryRecord(Record):
    """What the check at the start compared: the trainer with the model's own forward pass."""

    examples: list[str] = Field(description="ids of the compared examples")
    difference: Number = Field(description="the largest one, in nats per token")
    allowed: Number = Field(description="what rounding explains, in nats per token")
    trained: Whole = Field(description="number of trained weights, or of modules with adapters")
    left_out: list[str] = Field(description="kinds of linear layers that have no adapters")
    seconds: Value


class FirstBatchRecord(Record):
    """What the check before the first update compared."""

    reward: Number = Field(description="the largest absolute reward, which must be 0 up to rounding")


class StageRow(Record):
    """Summary of a training stage."""

    stage: str
    examples: Whole | None = None
    steps: Whole
    micro_batch_size: Whole | None = Field(None, description="examples per forward pass")
    gradient_checkpointing: bool | None = None
    seconds: Value | None = None
    reference: str | None = Field(None, description="none, computed or from disk")
    canary: FirstBatchRecord | None = Field(None, description="null where it was not checked")
    method_state: dict[str, Any] | None = Field(
        None, description="of a method that has a state, such as a running mean"
    )
    balance: Margins | None = Field(
        None, description="margins on held-out pairs after the stage, where they were measured"
    )
    first: LogRow | None = Field(None, description="the first row of the stage's log")
    last: LogRow | None = Field(None, description="the last row of the stage's log")


class StepSummary(Record):
    """How the steps were computed, and why so."""

    micro_batch_size: Whole = Field(description="examples per forward pass")
    passes: Whole = Field(description="forward passes per step and process")
    gradient_checkpointing: bool
    chosen: bool = Field(description="whether the trainer chose it (train.micro_batch_size=auto)")
    predicted_peak: Whole | None = Field(None, description="bytes")
    room: dict[str, Any] | None = Field(None, description="the memory that it was chosen for")


class AdaptersSummary(Record):
    """Which modules have adapters."""

    modules: Whole = Field(description="number of modules with adapters")
    kinds: list[str] = Field(description="the last parts of their names")
    left_out: dict[str, Whole] = Field(description="linear layers of the language model without adapters, by kind")


class TrainingSummary(Record):
    """`summary` in the manifest of an aligned run."""

    data: DataSummary
    prepared: dict[str, Any] = Field(description="what the method notes about its preparation, such as rejected images")
    canary: CanaryRecord | None = Field(description="null with --no-canary")
    stages: list[StageRow]
    balance: HeldOutRecord | None = Field(None, description="margins on held-out pairs, where they were measured")
    step: StepSummary
    truncated_responses: Whole
    feature_cache: Any = Field(description="whether and how images were encoded once")
    bfloat16: bool
    base_held: AnyText = Field(description="how the base's weights are held in memory")
    adapters: AdaptersSummary | None = Field(description="null where no adapters were trained")
    processes: Whole
    weights_shared_out: bool = Field(description="whether each process holds a shard of the weights")
    deepspeed: bool
    seconds: Value | None = Field(None, description="duration of the training; null in a stage's manifest")
