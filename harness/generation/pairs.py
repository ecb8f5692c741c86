"""Making pairs from judged answers, and balancing their lengths. Pure functions, seeded by their input."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.core.types import Response, Span, WeightedSpan
from harness.generation.settings import PairSettings
from harness.judging.candidates import Prompt, Verdict

RATIOS = tuple(round(0.02 * step, 2) for step in range(50))
"""The ratios that RLAIF-V tries, 0 to 0.98."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer with its verdict.

    Attributes:
        number: of the sample.
        response: the answer.
        verdict: the judge's.
        changed: characters in which it differs from the other answer of its pair, if they are known.
        weights: weights of its characters; 1 for the others.
    """

    number: int
    response: Response
    verdict: Verdict
    changed: tuple[Span, ...] | None = None
    weights: tuple[WeightedSpan, ...] = ()

    @property
    def score(self) -> float:
        """The score of an answer that has one."""
        assert self.verdict.score is not None
        return self.verdict.score


@dataclass(frozen=True, slots=True)
class CandidatePair:
    """A preference: the answer with the higher score is chosen. Sentences have a `context`, which both continue."""

    prompt: Prompt
    chosen: Judged
    rejected: Judged
    context: str = ""
    whole: bool = True
    """Whether the answers are whole, and not sentences."""

    @property
    def words(self) -> tuple[int, int]:
        """Length of the chosen and of the rejected answer, in words."""
        return len(self.chosen.response.text.split()), len(self.rejected.response.text.split())


def usable(answers: Iterable[Judged], counts: Counter[str]) -> list[Judged]:
    """The answers that may be paired, each text once; the reasons for the others are counted.

    Args:
        answers: answers of one prompt, in the order of sampling.
        counts: reason -> answers; added to.
    """
    kept: dict[str, Judged] = {}
    for answer in answers:
        text = answer.response.text.strip()
        if answer.response.refusal is not None:
            counts["refused"] += 1
        elif not text:
            counts["empty"] += 1
        elif answer.response.finish_reason == "length":
            counts["cut off"] += 1
        elif answer.verdict.score is None:
            counts["not judged"] += 1
        elif text in kept:
            counts["repeated"] += 1
        else:
            kept[text] = answer
    return list(kept.values())


def pairs_of(
    prompt: Prompt, answers: Sequence[Judged], settings: PairSettings, min_gap: float, seed: int, context: str = ""
) -> list[CandidatePair]:
    """The pairs of one prompt, or of the sentences that continue one context.

    Args:
        prompt: what was asked.
        answers: see `usable`.
        settings: how pairs are chosen among those with a sufficient gap.
        min_gap: the smallest difference of scores; equal scores never make a pair.
        seed: of the choice, with the prompt's text, image and context.
        context: the beginning of the answer, if the answers are sentences.
    """
    pairs = []
    for first, second in _opponents(answers):
        better, worse = (first, second) if first.score > second.score else (second, first)
        if better.score - worse.score >= min_gap and better.score > worse.score:
            pairs.append(CandidatePair(prompt, better, worse, context))
    if len(pairs) <= settings.per_prompt:
        return pairs
    if settings.how == "best-worst":
        # Python's sort is stable: of equal gaps, the pair that was sampled first is kept.
        return sorted(pairs, key=lambda pair: pair.rejected.score - pair.chosen.score)[: settings.per_prompt]
    draw = random.Random(f"{seed} {prompt.image.fingerprint()} {prompt.text}{context}")
    places = sorted(draw.sample(range(len(pairs)), settings.per_prompt))
    return [pairs[place] for place in places]


def _opponents(answers: Sequence[Judged]) -> Iterator[tuple[Judged, Judged]]:
    """Each answer with the one that the judge made from it, if it made any; otherwise all answers with one another."""
    if not any(answer.verdict.partner for answer in answers):
        yield from itertools.combinations(answers, 2)
        return
    for answer in answers:
        if (made := answer.verdict.partner) is not None:
            second = Response(answer.response.item_id, made.text, "stop")
            yield (
                replace(answer, changed=made.candidate_spans, weights=made.candidate_weights),
                Judged(answer.number, second, Verdict(made.score, made.why), made.spans, made.weights),
            )


def is_balanced(words: tuple[int, int], ratio: float) -> bool:
    """Whether a pair is kept at a ratio: the chosen answer has at least `ratio` times the words of the rejected one."""
    return words[0] >= ratio * words[1]


def balancing_ratio(lengths: Sequence[tuple[int, int]]) -> float:
    """The ratio at which the mean lengths of the remaining chosen and rejected answers differ least.

    RLAIF-V's search (Yu et al., CVPR 2025): the ratios of `RATIOS`, the smallest of equally good ones.

    Args:
        lengths: words of the chosen and of the rejected answer of every pair.
    """

    def difference(ratio: float) -> float:
        kept = [words for words in lengths if is_balanced(words, ratio)]
        return abs(sum(chosen - rejected for chosen, rejected in kept)) / len(kept) if kept else float("inf")

    return min(RATIOS, key=difference) if lengths else 0.0
