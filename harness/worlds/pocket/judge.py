"""A deterministic judge for the pocket world's questions: it knows the truth, and it is no language model."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError
from harness.judging.base import Judge, JudgeReply, JudgeRequest
from harness.judging.candidates import Candidate, CandidateJudge, Prompt, Verdict
from harness.worlds.pocket.scenes import CLASSES

_CLASS = re.compile(rf"\b({'|'.join(CLASSES)})s?\b")
_WORD = re.compile(r"[a-z]+")
_FILLER = frozenset(["a", "an", "the", "is", "are", "there", "in", "on", "at", "of", "to", "and", "image", "picture"])


class PocketTruthJudge(Judge):
    """Judges the embedded suites, each in the words of its official judge.

    MMHal-Bench: rates on the official scale of 0 to 6; below 3 the answer hallucinates, and within each half more information is better.

    Descriptions: an object that is not in the picture is a hallucination; the share of its objects that are named is the
    information. Questions: an answer that contradicts the truth, or names an absent object as present, is a hallucination.
    """

    name = "pocket-truth"
    reads_prompt = False

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        """Yield a reply in the official form, "... Rating: N", for each request."""
        for request in requests:
            reference = request.item.reference
            if "label" in reference:
                yield JudgeReply(request.item.id, _agreement(request))
                continue
            if "gpt4_answer" in reference:
                yield JudgeReply(request.item.id, _beside(request))
                continue
            if "capability" in reference:
                rating, _ = _answer(request.response.text.strip(), str(reference["answer"]), set(CLASSES))
                yield JudgeReply(request.item.id, f"{_GRADES.get(rating, 0.0)}")
                continue
            present = set(ast.literal_eval(str(reference["image_content"])))
            said, truth = request.response.text.strip(), str(reference["gt_answer"])
            describes = reference["question_type"] in ("environment", "holistic")
            rating, reason = _describe(said, present) if describes else _answer(said, truth, present)
            yield JudgeReply(request.item.id, f"{reason} Rating: {rating}")

    def provenance(self) -> dict[str, Any]:
        """It has no settings."""
        return {"judge": self.name, "model": "none: a program that knows the drawn truth", "version": 1}


_GRADES = {6: 1.0, 5: 1.0, 4: 0.5}
"""MMHal-Bench's ratings of answers to questions as MM-Vet's grades; the others are 0."""


def _beside(request: JudgeRequest) -> str:
    """LLaVA-Bench's two ratings: 10 for the true answer, and 1 to 10 for the model's."""
    reference, said = request.item.reference, request.response.text.strip()
    present = set(_CLASS.findall(str(reference["context"]).lower()))
    describes = reference["category"] == "llava_bench_detail"
    rating, reason = _describe(said, present) if describes else _answer(said, str(reference["gpt4_answer"]), present)
    return f"10 {1 + 1.5 * rating:g}\n{reason}"


def _agreement(request: JudgeRequest) -> str:
    """HallusionBench's verdict on a yes/no answer: against the truth, or against another answer (`other` of the reference)."""
    said, other = _decision(request.response.text), request.item.reference.get("other")
    if other is not None:
        return "same" if said == _decision(other) else "different"
    if said is None:
        return "unclear"
    return "correct" if said == request.item.reference["label"] else "incorrect"


def _decision(said: str) -> str | None:
    """The first word, if it is yes or no."""
    first = (_WORD.findall(said.lower()) or [""])[0]
    return first if first in ("yes", "no") else None


class PocketTruthCandidates(CandidateJudge):
    """Scores descriptions of drawn pictures as `PocketTruthJudge` rates them, 0 to 6: the data's boxes say what is there."""

    name, summary = "pocket-truth", "knows what is drawn in the pocket world's pictures"
    source = "the pocket world"
    min_gap = 1.0

    def check(self, prompts: Sequence[Prompt]) -> None:
        """All pictures are the pocket world's."""
        for prompt in prompts:
            labels = {region.label for region in prompt.regions}
            if not labels or labels - set(CLASSES):
                raise BadInputError(
                    "the judge 'pocket-truth' knows the pictures of the pocket world only",
                    where=f"prompt {prompt.id}",
                    remedy="--prompts pocket, or another --judge",
                )

    def judge(self, candidates: Sequence[Candidate], folder: Path) -> Iterator[tuple[str, Verdict]]:
        """Compare the classes named with those drawn."""
        for candidate in candidates:
            rating, reason = _describe(candidate.text, {region.label for region in candidate.prompt.regions})
            yield candidate.id, Verdict(float(rating), reason)


def _describe(said: str, present: set[str]) -> tuple[int, str]:
    named = set(_CLASS.findall(said.lower()))
    absent = sorted(named - present)
    share = len(named & present) / len(present)
    if absent:
        return (
            2 if share == 1 else 1 if share > 0 else 0
        ), f"It names what is not in the picture: {', '.join(absent)}."
    return 3 + int(
        3 * share
    ), f"It names {len(named & present)} of {len(present)} objects and nothing that is not there."


def _answer(said: str, truth: str, present: set[str]) -> tuple[int, str]:
    if not _WORD.search(said.lower()):
        return 3, "It says nothing."
    first = {text: (_WORD.findall(text.lower()) or [""])[0] for text in (said, truth)}
    if first[truth] in ("yes", "no"):
        if first[said] not in ("yes", "no"):
            return 3, "It does not answer the question."
        if first[said] != first[truth]:
            return 0, f"It says {first[said]}, the truth is {first[truth]}."
        return (6 if len(_WORD.findall(said)) > 1 else 5), "It answers rightly."
    absent = sorted(set(_CLASS.findall(said.lower())) - present)
    wanted = set(_WORD.findall(truth.lower())) - _FILLER
    given = set(_WORD.findall(said.lower())) - _FILLER
    if absent:
        return 1, f"It names what is not in the picture: {', '.join(absent)}."
    if given == wanted:
        return 6, "It answers rightly."
    if given < wanted:
        return 4, f"It leaves out: {', '.join(sorted(wanted - given))}."
    return 1, f"The truth is: {truth}"
