"""Seeded sampling on vLLM's CPU path: a draw for an unfinished prompt is taken back.

vLLM computes a prompt that does not fit into a step in several, draws a token after each, and discards all but the last one. It takes
discarded draws back with `Generator.set_offset`, which generators of a CPU do not have: vLLM 0.32 stops with "CPU Generator does not use
offset" as soon as one step has more prompts with seeds than it can hold. Applied in the engine's process, on CPUs only (`apply`).
"""

from __future__ import annotations

from typing import Any

import torch

_STEP = 4
"""What vLLM subtracts from the offset for each draw that it takes back."""


class RewindableGenerator(torch.Generator):
    """A CPU generator whose offset counts its draws, one for each token (`noted`), in vLLM's unit.

    Args:
        seed: see `torch.Generator.manual_seed`.
    """

    def __new__(cls, seed: int) -> RewindableGenerator:
        """The generator is on the CPU."""
        return super().__new__(cls, device="cpu")

    def __init__(self, seed: int) -> None:
        self.manual_seed(seed)
        self._draws = 0

    def noted(self) -> None:
        """Count a draw."""
        self._draws += 1

    def get_offset(self) -> int:
        """Four times the number of draws."""
        return _STEP * self._draws

    def set_offset(self, offset: int) -> None:
        """Return to an earlier state: the draws before it are repeated from the seed."""
        self._draws = offset // _STEP
        self.manual_seed(self.initial_seed())
        for _ in range(self._draws):
            torch.randint(0, 2**31, (1,), generator=self, dtype=torch.long)  # vLLM's draw for a token


def apply() -> None:
    """Give every request a generator of this kind. Must be called before the engine is made.

    Raises:
        AttributeError: this version of vLLM has no such operations; then this module must be revised.
    """
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
    from vllm.v1.worker.gpu_input_batch import InputBatch

    add, sample = InputBatch.add_request, TopKTopPSampler.forward_cpu

    def add_request(self: Any, request: Any) -> Any:
        if request.generator is not None and not isinstance(request.generator, RewindableGenerator):
            request.generator = RewindableGenerator(request.generator.initial_seed())
        return add(self, request)

    def forward_cpu(self: Any, logits: Any, generators: dict[int, RewindableGenerator], k: Any, p: Any) -> Any:
        for generator in generators.values():
            generator.noted()
        return sample(self, logits, generators, k, p)

    InputBatch.add_request, TopKTopPSampler.forward_cpu = add_request, forward_cpu
