"""Sampling with transformers in which every answer of a batch has random numbers of its own: it is the same in any batch, up to rounding.

transformers draws for a whole batch from one generator, so that an answer would depend on the answers beside it, and change if an
evaluation is resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.core.files import sha256_json
from harness.serving.base import Request, Sampling

if TYPE_CHECKING:
    from torch import Tensor


def options_of(sampling: Sampling, block: Sequence[Request]) -> dict[str, Any]:
    """The arguments of transformers' `generate` that choose tokens as the sampling says.

    Args:
        sampling: of all requests of the block.
        block: the requests that are answered together, in the order of the batch's rows.
    """
    if sampling.temperature == 0:
        return {"do_sample": False}
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    steps: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    steps.append(Draws([seed_of(request) for request in block]))
    # The draw is a part of the scores, so the greatest one is taken.
    return {"do_sample": False, "logits_processor": LogitsProcessorList(steps)}


def seed_of(request: Request) -> int:
    """The seed of a request's random numbers, by the seed of its sampling and its id, which differs between repetitions."""
    return int(sha256_json([request.sampling.seed, request.id])[:15], 16)


class Draws:
    """A logits processor of transformers after which the greatest score of a row is a draw from the row's distribution (Gumbel-max).

    Args:
        seeds: of the rows.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self._generators: list[Any] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with noise, [rows, vocabulary], from logits of the same shape; a token of score -inf is never drawn."""
        import torch

        if not self._generators:
            self._generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self._seeds]
        rows = [
            torch.empty_like(row).exponential_(generator=generator)
            for row, generator in zip(scores, self._generators, strict=True)
        ]
        return scores - torch.stack(rows).clamp_min(torch.finfo(scores.dtype).tiny).log()
