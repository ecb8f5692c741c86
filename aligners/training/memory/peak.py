"""Remedies for too little memory: which setting to lower, and what a step would then take by `aligners.training.memory.footprint`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aligners.base import Needs
from aligners.training.layout import row_lengths
from aligners.training.memory.footprint import ALONE, Architecture, Footprint, Shares, architecture, footprint
from harness.core.config import TrainSettings
from harness.core.memory import available, written_bytes

if TYPE_CHECKING:
    from aligners.base import Aligner
    from aligners.training.encoding import EncodedExample

_GPUS = (2, 4, 8)
"""Numbers of GPUs of one machine over which weights may be sharded."""


@dataclass(frozen=True)
class Peak:
    """The predicted peak of a training step for any setting, with the longest examples in its micro-batch.

    Attributes:
        model: from `architecture`.
        rows: example id -> tokens of each of its rows.
        responses: example id -> response tokens, over all branches.
        copy: a copy of the initial model is kept, if all weights are trained.
        gpu: it is trained on a GPU.
        shares: sharding over processes.
    """

    model: Architecture
    rows: Mapping[str, Sequence[int]]
    responses: Mapping[str, int]
    copy: bool
    gpu: bool
    shares: Shares = ALONE

    @classmethod
    def of_examples(
        cls,
        aligner: Aligner,
        location: str,
        train: TrainSettings,
        examples: Iterable[EncodedExample],
        gpu: bool,
        shares: Shares = ALONE,
    ) -> Peak:
        """The peak for a training on these examples.

        Args:
            aligner: the method.
            location: folder or hub id of the model.
            train: settings, with `savings` that are possible for the model.
            examples: all training examples. gpu: it is trained on a GPU. shares: sharding over processes.
        """
        rows, responses = {}, {}
        for one in examples:
            rows[one.id] = row_lengths(one, aligner.branches, train.savings.shared_prefix)
            responses[one.id] = sum(len(one.responses[branch.response]) for branch in aligner.branches)
        copy = Needs.REFERENCE_DISTRIBUTION in aligner.needs
        return cls(architecture(location, train), rows, responses, copy, gpu, shares)

    def of(self, train: TrainSettings, micro: int) -> Footprint:
        """The step's peak with `micro` examples per forward pass."""
        names = sorted(self.rows, key=lambda name: -sum(self.rows[name]))[:micro]
        return footprint(
            self.model,
            train,
            bfloat16=train.in_bfloat16(self.gpu),
            copy=self.copy,
            rows=[length for name in names for length in self.rows[name]],
            responses=sum(self.responses[name] for name in names),
            shares=self.shares,
        )

    def remedy(self, train: TrainSettings, micro: int, available: int, asked: TrainSettings | None = None) -> str:
        """Text with the cheapest setting for which a step is predicted to fit into `available` bytes, or that there is none.

        Args:
            train: the settings of the step, with everything decided.
            micro: its examples per forward pass.
            available: bytes.
            asked: the settings as the user gave them; None: as `train`.
        """
        now = self.of(train, micro).total
        # If it should have fitted, something else uses memory, too: then the next smaller step is worth a try.
        limit = min(now - 1, available)
        then = now
        # With a number, checkpointing that the settings leave open is off.
        on = {"gradient_checkpointing": True}
        kept = on if asked is not None and train.gradient_checkpointing and not asked.gradient_checkpointing else {}
        for changes in _smaller(train, micro):
            then = self.of(train.model_copy(update=changes), changes.get("micro_batch_size", micro)).total
            if then <= limit:
                sets = " ".join(
                    f"--set train.{name}={str(value).lower()}" for name, value in {**changes, **kept}.items()
                )
                price = (
                    "takes about a third more time" if "gradient_checkpointing" in changes else "changes nothing else"
                )
                return (
                    f"{sets} {price}: a step then takes {written_bytes(then)} by prediction instead of "
                    f"{written_bytes(now)}, of {written_bytes(available)}"
                )
        lighter = {"full": "train adapters (--lora), ", "lora": "hold the base in 4 bits (--qlora), "}
        if self.shares.weights:
            lighter["lora"] = "hold the base in 4 bits (--qlora, without --sharding), "
        smallest = train.model_copy(update={"micro_batch_size": 1, "gradient_checkpointing": True})
        return (
            f"lower train.max_length (the longest row has {max(map(max, self.rows.values())):,} tokens), "
            f"{lighter.get(train.tuning, '')}or {self._more_hardware(smallest, limit)}: the smallest step takes "
            f"{written_bytes(then)} by prediction, of {written_bytes(available)}"
        )

    def _more_hardware(self, train: TrainSettings, limit: int) -> str:
        """The hardware with which a step of one example would fit. Processes that shard nothing need as much memory each as one does."""
        if not self.gpu:
            return "use a machine with more memory"
        if self.shares.weights:
            return "use GPUs with more memory, because each holds the whole model before it is sharded"
        if train.tuning != "qlora":  # which is not sharded
            for processes in _GPUS:
                needed = replace(self, shares=Shares(processes, weights=True)).of(train, 1).total
                if needed <= limit:
                    return (
                        f"shard the weights over {processes} GPUs (harness launch --processes {processes} --sharding fsdp align ...: "
                        f"{written_bytes(needed)} each by prediction)"
                    )
        return "use a GPU with more memory"


def _smaller(train: TrainSettings, micro: int) -> Iterator[dict[str, Any]]:
    """Settings with the same result and less and less memory, first those that cost no time."""
    while micro > 1:
        micro //= 2
        yield {"micro_batch_size": micro}
    if not train.gradient_checkpointing:
        yield {"micro_batch_size": 1, "gradient_checkpointing": True}


def memory_there(gpu: bool) -> int:
    """Bytes that this process can use: the free memory and its own, of the GPU or of the machine."""
    import psutil
    import torch

    if gpu:
        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())
    return available() + int(psutil.Process().memory_info().rss)
