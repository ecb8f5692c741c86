"""One alignment, set up: the policy, its processor, and the encoded examples. The starting point of training and measurements."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aligners.base import Aligner, Branch, Needs, is_rejected, rejected_of
from aligners.preferences import PreferenceSet, read_preferences
from aligners.training.batches import Preparer
from aligners.training.encoding import EncodedExample, encode_all
from aligners.training.job import AlignJob
from aligners.training.layout import Batch, by_branch
from aligners.training.memory.step import shares_of, step_of
from aligners.training.policy import Policy
from aligners.training.processes import is_sharded
from harness.core.memory import reuse_large_blocks
from harness.core.types import PreferenceExample
from harness.models import devices, load_model, load_processor

logger = logging.getLogger(__name__)


def preferences_of(job: AlignJob, aligner: Aligner) -> PreferenceSet:
    """Read the data of an alignment by its settings. Data that the method does not use are logged."""
    data = read_preferences(
        job.data,
        on_error=job.on_error,
        limit=job.limit,
        seed=job.train.seed,
        cache=job.cache,
        allow_download=job.allow_download,
        options=job.data_options,
    )
    used = {branch.image for branch in aligner.branches}
    given = sum(any(is_rejected(name) and name not in used for name in example.images) for example in data.examples)
    if given:
        why = "" if rejected_of(aligner.branches) else ": both answers are to the original image"
        logger.warning(f"{given:,} examples have a rejected image, which {aligner.name} does not use{why}")
    return data


class Session:
    """The model, the method and the encoded examples of one alignment.

    Args:
        aligner: the method.
        job: the alignment's job.
        examples: prepared examples; those that cannot be encoded are skipped (`refused`) or raise an error, by `job.on_error`.
        process: accelerate's view of this process.
    """

    def __init__(self, aligner: Aligner, job: AlignJob, examples: Sequence[PreferenceExample], process: Any) -> None:
        import torch

        self.aligner, self.job, self.train_settings, self.process = aligner, job, job.train, process
        self.branches = list(aligner.branches)
        self.sharded = is_sharded()
        self.processor = load_processor(job.model)
        self.encoded = self._encode(examples)
        self.shares = shares_of(process)
        self.step = step_of(aligner, job, list(self.encoded.values()), process)
        self.train_settings = self.step.train
        if said := self.step.said():
            logger.info(said)
        if job.train.adapters and job.train.lora.dropout and job.train.micro_batch_size == "auto":
            logger.info(
                f"train.lora.dropout={job.train.lora.dropout:g}: dropout depends on train.micro_batch_size and the number of "
                f"processes, as on a seed; to repeat this run elsewhere: --set train.micro_batch_size={self.step.train.micro}"
            )
        gpu = devices.has_accelerator()
        torch.manual_seed(job.train.seed)
        if not gpu:
            reuse_large_blocks()
        self.bfloat16 = job.train.in_bfloat16(gpu)
        # Trained full weights stay in float32 and are cast in the step; frozen ones are stored in the type of the computation, or in 4
        # bits.
        dtype = "bfloat16" if self.bfloat16 and job.train.adapters else "float32"
        self.base_held = {"qlora": f"4 bits (NF4, double quantisation), computed in {dtype}"}.get(
            job.train.tuning, dtype
        )
        model = load_model(job.model, dtype, four_bits=job.train.tuning == "qlora")
        self.policy = Policy(
            model,
            self.processor,
            job.train.tuning,
            job.train.lora,
            # With chunked logits, the number of calls of the head depends on a process's tokens, but must be equal in all processes.
            job.train.savings.model_copy(update={"chunked_logits": False}) if self.sharded else job.train.savings,
            self.bfloat16,
            with_distribution=Needs.REFERENCE_DISTRIBUTION in aligner.needs,
        )
        if self.train_settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            # Only re-entrant checkpoints need inputs with gradients; in the frozen tower they would cost a backward pass.
            model.disable_input_require_grads()
        self.features = self.policy.keep_features(
            image for one in self.encoded.values() for image in one.images.values()
        )

    def _encode(self, examples: Sequence[PreferenceExample]) -> dict[str, EncodedExample]:
        encoded, self.refused = encode_all(self.processor, examples, self.aligner, self.job)
        self.truncated = sum(one.truncated for one in encoded.values())
        if self.truncated:
            logger.warning(f"{self.truncated} responses were cut at {self.train_settings.max_length} tokens")
        return encoded

    def batch(self, examples: Sequence[EncodedExample], branches: Sequence[Branch] | None = None) -> Batch:
        """A prepared batch, not yet on the model's device."""
        return self.preparer().batch(examples, branches or self.branches)

    def preparer(self) -> Preparer:
        """An object that makes its batches, in any process."""
        return self.policy.preparer(one_block=self.sharded)

    def values(
        self,
        examples: Sequence[EncodedExample],
        branches: Sequence[Branch],
        value: Callable[[Any, Any], Any],
        trained: str = "start",
    ) -> list[dict[tuple[str, str], np.ndarray]]:
        """A value of every response token of the examples' branches by the present model, without gradient."""
        import torch

        batch = self.batch(examples, branches).to(self.policy.device)
        # A new adapter has no effect, so it need not be computed.
        plain = self.policy.without_adapter() if trained == "start" else contextlib.nullcontext()
        with torch.no_grad(), self.autocast(), plain:
            # Called through the model's wrappers, as in training, because this process may have only a shard of the weights.
            per_branch = by_branch(self.policy.model(batch, value), batch.layouts)
        return [
            {
                (branch.image, branch.response): per_branch[branch.name]
                .tokens[row][per_branch[branch.name].mask[row]]
                .cpu()
                .numpy()
                for branch in branches
            }
            for row in range(len(examples))
        ]

    def autocast(self) -> Any:
        """The context in which the model is run."""
        import torch

        return torch.autocast(self.policy.device.type, torch.bfloat16, enabled=self.bfloat16)
