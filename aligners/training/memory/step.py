"""The form of a step: examples per forward pass, and whether activations are computed again in the backward pass.

With `train.micro_batch_size=auto` these are decided here, before weights are loaded: the most examples for which the predicted memory
suffices. The result of a step is the same except for rounding, and for what dropout drops (`TrainSettings.COST_ONLY`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligners.training.families import possible_savings
from aligners.training.memory.batch import accumulation, share_of_batch
from aligners.training.memory.footprint import Shares
from aligners.training.memory.peak import Peak, memory_there
from aligners.training.policy import FEATURE_BUDGET
from aligners.training.processes import is_deepspeed, is_sharded
from harness.core.config import TrainSettings
from harness.core.errors import BadInputError
from harness.core.files import write_json
from harness.core.memory import written_bytes
from harness.core.reading import read_json
from harness.core.record import check
from harness.models import devices
from harness.models.pretrained import configuration
from harness.records.training_files import StepFile, StepSummary

if TYPE_CHECKING:
    from aligners.base import Aligner
    from aligners.training.encoding import EncodedExample
    from aligners.training.job import AlignJob

GPU, RAM = "GPU", "RAM"
STEP = "step.json"
"""File in a run's folder with the form of its steps, and hashes of what it is trained from."""
_SPARE = {GPU: 0.1, RAM: 0.2}
"""Fraction of the memory that is left free: the prediction can be a few percent too low, allocators leave gaps, and other programs use a
machine's memory, too."""


@dataclass(frozen=True)
class Room:
    """The memory for a training, in bytes.

    Attributes:
        where: `GPU` or `RAM`.
        available: what this process can use of it.
        program: what the program itself uses without model and data.
        features: what cached features of images use.
    """

    where: str
    available: int
    program: int = 0
    features: int = 0

    @property
    def for_steps(self) -> int:
        """What remains for weights and steps, with a part of the memory left free."""
        return int(self.available * (1 - _SPARE[self.where])) - self.program - self.features


@dataclass(frozen=True)
class StepSize:
    """The form of a step.

    Attributes:
        train: the settings, with everything decided.
        passes: number of forward passes of each process.
        chosen: the prediction decided, which is then reported: `predicted`, a step's peak with program and cached features, and `room`.
        why: a reason to report: where it comes from, or why it is not the requested number.
    """

    train: TrainSettings
    passes: int
    chosen: bool = False
    predicted: int = 0
    room: Room | None = None
    why: str = ""

    def summary(self) -> StepSummary:
        """Values for the manifest."""
        predicted: dict[str, Any] = (
            {} if self.room is None else {"predicted_peak": self.predicted, "room": asdict(self.room)}
        )
        return StepSummary(
            micro_batch_size=self.train.micro,
            passes=self.passes,
            gradient_checkpointing=bool(self.train.gradient_checkpointing),
            chosen=self.chosen,
            **predicted,
        )

    def said(self) -> str | None:
        """One line about what was chosen; None if the step is as requested."""
        passes = "1 pass" if self.passes == 1 else f"{self.passes} passes"
        taken = f"a step: {passes} of {self.train.micro} examples"
        if self.room is None:
            return f"{taken}: {self.why}" if self.why else None
        again = ", activations computed again (gradient checkpointing)" if self.train.gradient_checkpointing else ""
        why = f"; {self.why}" if self.why else ""
        return (
            f"{taken}{again}; {written_bytes(self.predicted)} at its peak by prediction, of "
            f"{written_bytes(self.room.available)} {self.room.where} (train.micro_batch_size=auto{why})"
        )


def shares_of(process: Any) -> Shares:
    """How the processes shard the training, by accelerate's settings."""
    return Shares(process.num_processes, is_sharded(), is_deepspeed())


def room_for(process: Any, config: Any, train: TrainSettings, encoded: Collection[EncodedExample]) -> Room:
    """The memory for a training, measured before weights are loaded.

    Args:
        process: accelerate's state of this process.
        config: the model's configuration.
        train: its `savings` those that the model can have.
        encoded: the training examples.

    Returns:
        The minimum over all processes, so that all of them decide alike.
    """
    import psutil

    on_gpu = devices.usual() == "cuda"
    available, program, features = memory_there(on_gpu), 0, 0
    if not on_gpu:
        program = int(psutil.Process().memory_info().rss)
        features = kept_features(config, train, encoded)
        # The processes of one machine share its free memory.
        together = int(os.environ.get("LOCAL_WORLD_SIZE", process.num_processes))
        available = program + (available - program) // together
    if process.num_processes > 1:
        from accelerate.utils import gather_object

        available, program = min(gather_object([(available, program)]), key=lambda one: one[0] - one[1])
    return Room(GPU if on_gpu else RAM, available, program, features)


def kept_features(config: Any, train: TrainSettings, encoded: Collection[EncodedExample]) -> int:
    """Bytes of the tower's features that `Policy.keep_features` will cache; 0 if it caches none."""
    if not train.savings.feature_cache:
        return 0
    tower, layers = config.vision_config, config.vision_feature_layer
    tokens = (tower.image_size // tower.patch_size) ** 2
    if tower.model_type == "clip_vision_model" and config.vision_feature_select_strategy != "default":
        tokens += 1
    size = 2 if train.adapters and train.in_bfloat16(devices.has_accelerator()) else 4
    image = tokens * tower.hidden_size * (1 if isinstance(layers, int) else len(layers)) * size
    found = image * len({one.fingerprint() for example in encoded for one in example.images.values()})
    return found if found <= FEATURE_BUDGET else 0


def step_of(aligner: Aligner, job: AlignJob, encoded: Sequence[EncodedExample], process: Any) -> StepSize:
    """The step of a training on these examples, by the available memory.

    A resumed run keeps its steps, if memory suffices for that; if the settings give a number, it keeps only whether activations are
    computed again, unless they say that, too.

    Raises:
        BadInputError: as of `decide`; or the file with the run's steps is damaged.
    """
    # Without examples there is nothing to train, which the caller reports.
    if not encoded:
        return decide(job.train.model_copy(update={"micro_batch_size": 1}), None, None, process.num_processes)
    if job.train.micro_batch_size != "auto":
        kept = _begun_with(job, process) if job.train.gradient_checkpointing is None else None
        return decide(job.train, None, None, process.num_processes, kept)
    config = configuration(job.model)
    train = job.train.model_copy(update={"savings": possible_savings(config, job.train.savings)})
    shares = shares_of(process)
    if shares.weights:  # as in `Session`
        train = train.model_copy(update={"savings": train.savings.model_copy(update={"chunked_logits": False})})
    peak = Peak.of_examples(aligner, job.model, train, encoded, devices.has_accelerator(), shares)
    # Read before the processes synchronise in `room_for`, after which the first one writes it again.
    begun = _begun_with(job, process)
    found = decide(train, peak, room_for(process, config, train, encoded), process.num_processes, begun)
    return replace(found, train=found.train.model_copy(update={"savings": job.train.savings}))


def remember(step: StepSize, run: Path, inputs: Mapping[str, str]) -> None:
    """Store the form of the steps in a run's folder, for `begun_with`, and hashes of what is trained from, for `inputs.check_inputs`."""
    again = bool(step.train.gradient_checkpointing)
    write_json(
        run / STEP, StepFile(micro_batch_size=step.train.micro, gradient_checkpointing=again, **inputs).written()
    )


def begun_with(run: Path) -> tuple[int, bool] | None:
    """Examples per forward pass, and whether activations are computed again, in the run so far; None if they are not stored.

    Raises:
        BadInputError: the file is damaged.
    """
    if not (run / STEP).exists():
        return None
    begun = check(StepFile, read_json(run / STEP, "step's file"), "step's file", run / STEP)
    return begun.micro_batch_size, begun.gradient_checkpointing


def _begun_with(job: AlignJob, process: Any) -> tuple[int, bool] | None:
    """`begun_with` of a run that is resumed, as the first process reads it; None for a new run."""
    begun = begun_with(job.output) if job.resume else None
    if process.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        [begun] = broadcast_object_list([begun])
    return begun


def decide(
    asked: TrainSettings,
    peak: Peak | None,
    room: Room | None,
    processes: int = 1,
    begun: tuple[int, bool] | None = None,
) -> StepSize:
    """The step of the settings, or if they leave it open, the largest that fits.

    Args:
        asked: the settings.
        peak: the predicted peaks; like `room`, only needed if `asked.micro_batch_size` is "auto".
        room: the available memory.
        processes: number of processes that divide the batch.
        begun: the step of the run so far, which is kept if it fits. Where the settings give a number, gradient checkpointing is kept,
            if they leave that open.

    Raises:
        BadInputError: the batch cannot be split over so many processes, or not even the smallest step fits.
    """
    if asked.micro_batch_size != "auto":
        micro, passes = accumulation(asked, processes)
        recompute = bool(asked.gradient_checkpointing)
        why = "" if micro == asked.micro else _why_fewer(asked, processes)
        if asked.gradient_checkpointing is None and begun is not None and begun[1]:
            # Memory was too little without it, and the number that an error recommended is meant with it.
            recompute = True
            why = "; ".join(filter(None, (why, "activations are computed again, as the run was begun")))
        taken = asked.model_copy(update={"micro_batch_size": micro, "gradient_checkpointing": recompute})
        return StepSize(taken, passes, why=why)
    share = share_of_batch(asked, processes)
    if peak is None or room is None:
        raise ValueError("without a prediction no step can be chosen")
    ways = list(_ways(asked, share))
    least = None
    for train in sorted(ways, key=lambda one: _way(one) != begun):  # stable: all others keep their order
        least = peak.of(train, train.micro).total
        if least <= room.for_steps:
            predicted = least + room.program + room.features
            return StepSize(train, share // train.micro, True, predicted, room, _why_begun(begun, train))
    smallest = asked.model_copy(
        update={"micro_batch_size": 1, "gradient_checkpointing": bool(asked.gradient_checkpointing)}
    )
    with_it = " --set train.gradient_checkpointing=true" if asked.gradient_checkpointing is None else ""
    raise BadInputError(
        f"not even one example per forward pass fits into memory: {written_bytes(least or 0)} by prediction, "
        f"{written_bytes(max(0, room.for_steps))} of {written_bytes(room.available)} {room.where} are available for it",
        where="train.micro_batch_size=auto",
        remedy=f"{peak.remedy(smallest, 1, room.for_steps)}; --set train.micro_batch_size=1{with_it} tries it anyway",
    )


def _way(train: TrainSettings) -> tuple[int, bool]:
    return train.micro, bool(train.gradient_checkpointing)


def _why_fewer(asked: TrainSettings, processes: int) -> str:
    """Why a pass has fewer examples than the settings say."""
    share = share_of_batch(asked, processes)
    whose = "a step" if processes == 1 else "each process's share of a step"
    if asked.micro > share:
        return f"train.micro_batch_size={asked.micro} is more than {whose} has"
    return f"train.micro_batch_size={asked.micro} does not divide the {share} examples of {whose}"


def _why_begun(begun: tuple[int, bool] | None, taken: TrainSettings) -> str:
    """How the step of a resumed run relates to the earlier one; "" if that is unknown."""
    if begun is None:
        return ""
    if begun == _way(taken):
        return "as the run was begun"
    how = f"{begun[0]} examples per pass, computed again," if begun[1] else f"{begun[0]} examples per pass,"
    return f"the run was begun with {how} which cannot be kept: memory, batch or processes have changed"


def _ways(asked: TrainSettings, share: int) -> Iterator[TrainSettings]:
    """The possible steps, with the most examples first; activations are computed again only as last resort, or if requested."""
    free = asked.gradient_checkpointing is None
    for again in (False, True) if free else (bool(asked.gradient_checkpointing),):
        for micro in range(share, 0, -1):
            if share % micro == 0:
                yield asked.model_copy(update={"micro_batch_size": micro, "gradient_checkpointing": again})
