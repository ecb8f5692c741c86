"""Sampling the parts of a set with Ray Data: every worker has an engine, and answers parts into their logs.

The engine is the one of `harness data generate` without Ray, and not Ray Data's own vLLM processor, which makes prompts from messages
by itself: a prompt, its seed and its log are then the same wherever a part is answered.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from harness.core.progress import progress
from harness.core.ray_data import results_of
from harness.evaluation.responses import ResponseLog
from harness.generation.candidates import CandidateSampler, PromptPart


class _RaySampler:
    """Runs in an actor of Ray Data, and keeps its engine: one part per row. Every row has the same sampler."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._engine: Callable[[], Any] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        sampler, part = pickle.loads(row["task"])
        if self._engine is None:
            self._engine = self._held.enter_context(sampler.running())
        refused = sampler.answer(part, self._engine)
        return {"refused": json.dumps(refused), "prompts": len(part.prompts)}


def sample_through_ray(sampler: CandidateSampler, parts: Sequence[PromptPart], workers: int) -> dict[str, str]:
    """`CandidateSampler.run` with Ray Data; all machines must see the working folder, the set's folder and the model.

    Args:
        sampler: the model and the sampling.
        parts: of the set.
        workers: number of engines.

    Returns:
        Request id -> why it could not be answered.

    Raises:
        BadInputError: a question cannot be asked.
        HarnessError: an engine or Ray failed; what was answered is kept.
    """
    sampler.check_questions(parts)
    refused: dict[str, str] = {}
    open_parts = [part for part in parts if _is_open(sampler, part)]
    with progress("sampling answers", sum(len(part.prompts) for part in parts) * sampler.sample.samples) as advance:
        done = sum(len(part.prompts) for part in parts) - sum(len(part.prompts) for part in open_parts)
        advance(done * sampler.sample.samples)
        if open_parts:
            tasks = [pickle.dumps((sampler, part)) for part in open_parts]
            for row in results_of(
                _RaySampler, tasks, workers, gpus=0 if sampler.backend.remote else sampler.backend_settings.gpus
            ):
                refused |= json.loads(row["refused"])
                advance(row["prompts"] * sampler.sample.samples)
    return refused


def _is_open(sampler: CandidateSampler, part: PromptPart) -> bool:
    """Whether an answer of a part is missing; no engine is started for the others."""
    kept = ResponseLog.peek(part.folder)
    return any((prompt.id, request.id) not in kept for prompt in part.prompts for request in sampler.requests(prompt))
