"""Too little memory: which setting to lower, and what a step would then take, by `aligners.training.memory.footprint`'s count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aligners.base import Needs
from aligners.training.layout import row_lengths
from aligners.training.memory.footprint import ALONE, Architecture, Footprint, Shares, architecture, footprint
from harness.core.config import TrainSettings
from harness.core.memory import available, written_bytes

if TYPE_CHECKING:
    from aligners.base import Aligner
    from aligners.training.encoding import EncodedExample


@dataclass(frozen=True)
class Peak:
    """The predicted peak of a training step for any setting: of one whose micro-batch holds the longest examples.

    Attributes:
        model: counted by `architecture`.
        rows: example id -> tokens of each of its rows.
        responses: example id -> response tokens, over all branches.
        copy: a copy of the first model is kept, where all weights are trained.
        gpu: it is trained on one.
        shares: what of it each process holds.
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
        """Of a training on these examples.

        Args:
            aligner: the method.
            location: folder or hub id of the model.
            train: its `savings` those that the model can have.
            examples: all that are trained on.
            gpu: it is trained on one.
            shares: what of it each process holds.
        """
        rows, responses = {}, {}
        for one in examples:
            rows[one.id] = row_lengths(one, aligner.branches, train.savings.shared_prefix)
            responses[one.id] = sum(len(one.responses[branch.response]) for branch in aligner.branches)
        copy = Needs.REFERENCE_DISTRIBUTION in aligner.needs
        return cls(architecture(location, train), rows, responses, copy, gpu, shares)

    def of(self, train: TrainSettings, micro: int) -> Footprint:
        """The step's peak with so many examples a forward pass."""
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

    def remedy(self, train: TrainSettings, micro: int, available: int) -> str:
        """The cheapest setting with which a step fits into so many bytes, by prediction; or that there is none."""
        now = self.of(train, micro).total
        # Where it should have fitted, something else takes memory, too: then the next smaller step is worth a try.
        limit = min(now - 1, available)
        then = now
        for changes in _smaller(train, micro):
            then = self.of(train.model_copy(update=changes), changes.get("micro_batch_size", micro)).total
            if then <= limit:
                sets = " ".join(f"--set train.{name}={str(value).lower()}" for name, value in changes.items())
                price = (
                    "takes about a third more time" if "gradient_checkpointing" in changes else "changes nothing else"
                )
                return (
                    f"{sets} {price}: a step then takes {written_bytes(then)} by prediction instead of "
                    f"{written_bytes(now)}, of {written_bytes(available)}"
                )
        lighter = {"full": "train adapters (--lora), ", "lora": "hold the base in 4 bits (--qlora), "}
        return (
            f"lower train.max_length (the longest row has {max(map(max, self.rows.values())):,} tokens), "
            f"{lighter.get(train.tuning, '')}or use several GPUs (accelerate launch): the smallest step takes "
            f"{written_bytes(then)} by prediction, of {written_bytes(available)}"
        )


def _smaller(train: TrainSettings, micro: int) -> Iterator[dict[str, Any]]:
    """Settings that take less and less memory and compute the same: first those that cost no time."""
    while micro > 1:
        micro //= 2
        yield {"micro_batch_size": micro}
    if not train.gradient_checkpointing:
        yield {"micro_batch_size": 1, "gradient_checkpointing": True}


def memory_there(gpu: bool) -> int:
    """Bytes that this process could have: what is free and what it has already, of the GPU's memory or of the machine's."""
    import psutil
    import torch

    if gpu:
        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())
    return available() + int(psutil.Process().memory_info().rss)
