"""OPA-DPO's judge: a vision-language model corrects an answer as little as possible; the correction is preferred to the answer."""

from __future__ import annotations

import difflib
import re
from itertools import pairwise

from pydantic import Field, field_validator

from harness.core.types import Span, WeightedSpan
from harness.generation.rating import LookingJudge, LookingSettings
from harness.judging.candidates import Candidate, Partner, Verdict
from harness.judging.replies import UnreadableError

CORRECT = """\
Below is what somebody answered to a question about this image, one numbered sentence a line. Correct what the image shows to be wrong, \
and change nothing else: keep every sentence that is right word for word, and in a wrong sentence keep every word that can stay. Do not \
add anything and do not improve the style.
{reference}
Question: {question}
{sentences}

For each sentence write one line, "NUMBER. SCORE | SENTENCE". The score is 4 if the sentence is right, 3 if a detail is wrong, 2 if much \
of it is wrong, 1 if it is about something that is not in the image. SENTENCE is the sentence, corrected if necessary. If nothing of a \
sentence can stay, leave SENTENCE empty. Write nothing else.
"""
GIVEN = "Somebody who knows the image wrote about it, which may help you: {reference}\n"
RIGHT = 4
"""The score of a sentence without an error."""
_SENTENCE = re.compile(r"\S.*?(?:[.!?]+(?=\s|$)|$)", re.DOTALL)
_LINE = re.compile(r"^\s*(\d+)\s*[.)]\s*([1-4])\s*\|\s*(.*?)\s*$")
_WORD = re.compile(r"\w+|[^\w\s]")


class RewriteSettings(LookingSettings):
    """The model that corrects, and what its scores weigh."""

    weights: tuple[float, float, float] = Field(
        (2.5, 2.0, 1.5),
        description="weights of the characters of a sentence that scored 1, 2 or 3, in the answer and in the correction, for methods "
        "that read token weights (opa-dpo); the others weigh 1 (OPA-DPO's public code)",
    )

    @field_validator("weights")
    @classmethod
    def _at_least_zero(cls, weights: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0 <= weight < float("inf") for weight in weights):
            raise ValueError(f"weights must be finite and at least 0, not {list(weights)}")
        return weights


class RewriteJudge(LookingJudge):
    """Score of an answer = minus the number of its sentences that were corrected; of its correction, 0.

    An answer in which nothing is wrong has no correction and makes no pair. The changed characters of both are kept (`chosen_spans`,
    `rejected_spans`) for methods with weights for corrected tokens, and weights of the corrected sentences (`chosen_weights`,
    `rejected_weights`) for OPA-DPO.
    """

    name, summary = "rewrite", "a vision-language model corrects each answer minimally (OPA-DPO)"
    source = "OPA-DPO, Yang et al., CVPR 2025"
    Settings = RewriteSettings
    settings: RewriteSettings
    makes_partners = True
    min_gap = 1.0

    def prompt(self, candidate: Candidate) -> str:
        """See `CORRECT`; if the data has a good answer, it is shown, as in OPA-DPO."""
        numbered = "\n".join(f"{number}. {text}" for number, text in enumerate(sentences_of(candidate.text), 1))
        known = GIVEN.format(reference=candidate.prompt.reference) if candidate.prompt.reference else ""
        return CORRECT.format(question=candidate.prompt.text, sentences=numbered, reference=known)

    def read(self, candidate: Candidate, reply: str) -> Verdict:
        """The corrected sentences, joined as those of the answer are."""
        lines = [match.groups() for line in reply.splitlines() if (match := _LINE.match(line))]
        places = sentence_spans(candidate.text)
        if [int(number) for number, _, _ in lines] != list(range(1, len(places) + 1)):
            raise UnreadableError("it has not one line for each sentence")
        old = [candidate.text[start:end] for start, end in places]
        for text, (number, score, new) in zip(old, lines, strict=True):
            if (int(score) == RIGHT) != (" ".join(text.split()) == new):
                raise UnreadableError(f"score and correction of sentence {number} contradict each other")
        wrong = [text for text, (_, score, _) in zip(old, lines, strict=True) if int(score) < RIGHT]
        if not wrong:
            return Verdict(None, error="nothing to correct")
        blanks = [candidate.text[end:start] for (_, end), (start, _) in pairwise(places)]
        corrected, weights, candidate_weights = "", list[WeightedSpan](), list[WeightedSpan]()
        for place, text, (_, score, new), blank in zip(places, old, lines, [*blanks, ""], strict=True):
            kept = text if int(score) == RIGHT else new
            if int(score) < RIGHT:
                weight = self.settings.weights[int(score) - 1]
                candidate_weights.append((*place, weight))
                if kept:
                    weights.append((len(corrected), len(corrected) + len(kept), weight))
            corrected += kept + (blank if kept else "")
        corrected = corrected.rstrip()
        if not corrected:
            return Verdict(None, error="nothing of the answer can stay")
        ours, theirs = changed_spans(candidate.text, corrected)
        scores = ", ".join(score for _, score, _ in lines)
        why = f"corrected {len(wrong)} of {len(places)} sentences (scores {scores}): {' '.join(wrong)}"
        partner = Partner(corrected, 0.0, "the correction", theirs, ours, tuple(weights), tuple(candidate_weights))
        return Verdict(-float(len(wrong)), why, partner=partner)

    def _words(self) -> str:
        return CORRECT + GIVEN


def sentence_spans(text: str) -> list[Span]:
    """[start, end) of the characters of each sentence; blanks between them belong to none."""
    return [match.span() for match in _SENTENCE.finditer(text)]


def sentences_of(text: str) -> list[str]:
    """The sentences, each on one line."""
    return [" ".join(text[start:end].split()) for start, end in sentence_spans(text)]


def changed_spans(first: str, second: str) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """The characters in which two texts differ, by whole words and punctuation marks: [start, end) in the first, and in the second."""
    words = [[match.span() for match in _WORD.finditer(text)] for text in (first, second)]
    ours, theirs = (
        [text[start:end] for start, end in spans] for text, spans in zip((first, second), words, strict=True)
    )
    changed: tuple[list[Span], list[Span]] = ([], [])
    for kind, *places in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        for side, (start, end) in enumerate((places[:2], places[2:])):
            if end > start:
                changed[side].append((words[side][start][0], words[side][end - 1][1]))
    return tuple(changed[0]), tuple(changed[1])
