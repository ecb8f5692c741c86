"""`harness data generate --dry-run`: what will be asked, and what it costs. Nothing is asked or written."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from harness.evaluation.responses import ResponseLog
from harness.generation.candidates import PromptPart
from harness.generation.generate import prompts_of
from harness.generation.kept_answers import KeptAnswers
from harness.generation.verdicts import complete_verdicts, verdict_key
from harness.generation.work import GenerateRequest, parts_of
from harness.judging.candidates import Candidate
from harness.models import PromptLengths, load_processor

_ASSUMED_ANSWER = "word " * 80
"""Placeholder for an answer that is not sampled yet."""


def _of_another_set(request: GenerateRequest, part: PromptPart, kept: KeptAnswers) -> dict[tuple[str, str], str]:
    owners = {asked.id: prompt.id for prompt in part.prompts for asked in request.sampler.requests(prompt)}
    return {(owners[record.request], record.request): record.text for record in kept.answers(owners)}


def _without_verdict(request: GenerateRequest, part: PromptPart, answered: Iterable[Candidate]) -> list[Candidate]:
    """The answers that will be judged: the first of equal ones, if neither this set nor the other one has a verdict on it."""
    candidates = list(answered)
    if request.judge.sentences or not candidates:  # answers of sentences are not known before
        return candidates
    identity = request.judge.identity()
    open_: dict[str, Candidate] = {}
    for candidate in candidates:
        open_.setdefault(verdict_key(candidate, identity), candidate)
    judged = {key for key, _ in complete_verdicts(part.folder)}
    if request.kept is not None:
        judged |= {key for key, _ in request.kept.verdicts(open_)}
    return [candidate for key, candidate in open_.items() if key not in judged]


def plan_generation(request: GenerateRequest) -> dict[str, Any]:
    """Prompts, answers to sample, their tokens, and the judge's requests, tokens and dollars.

    Sentences are counted for the first sentence of each answer only, because the number of sentences is not known before.

    Raises:
        BadInputError: prompts or settings are unusable.
    """
    mine, _, left_out, invalid = prompts_of(request)
    sampler, limit = request.sampler, request.sampler.sample.max_new_tokens
    lengths = None if sampler.target.remote else PromptLengths(load_processor(sampler.target.base))
    answers = kept = prompt_tokens = 0
    known: list[int] = []
    candidates: list[Candidate] = []
    for part in parts_of(request, mine):
        log = {} if request.judge.sentences else ResponseLog.peek(part.folder)
        if request.kept is not None:
            log |= _of_another_set(request, part, request.kept)
        known += ResponseLog.peek_lengths(part.folder)
        answered: list[Candidate] = []
        for prompt in part.prompts:
            tokens = 0 if lengths is None else lengths.length(prompt.text, prompt.image.size())
            for number, asked in enumerate(sampler.requests(prompt)):
                text = log.get((prompt.id, asked.id))
                answers, kept = answers + 1, kept + (text is not None)
                prompt_tokens += tokens if text is None else 0
                into = candidates if text is None else answered
                into.append(
                    Candidate(f"{prompt.id}#{number}", prompt, _ASSUMED_ANSWER if text is None else text.strip())
                )
        candidates += _without_verdict(request, part, answered)
    estimate, missing = request.judge.estimate(candidates), answers - kept
    return {
        "prompts": len(mine),
        "invalid_records": invalid,
        "held_out": left_out.held_out,
        "held_out_prompts": left_out.held_out_prompts,
        "answers": answers,
        "kept": kept,
        "prompt_tokens": None if lengths is None else prompt_tokens,
        "new_tokens": round(statistics.fmean(known) * missing) if known else None,
        "new_tokens_at_most": missing * limit,
        "per_sentence": request.judge.sentences,
        "judge": request.judge.name,
        "judge_calls": estimate.calls,
        "judge_kept": estimate.kept,
        "judge_prompt_tokens": estimate.prompt_tokens,
        "judge_completion_tokens_at_most": estimate.completion_tokens,
        "judge_usd_at_most": estimate.usd,
    }
