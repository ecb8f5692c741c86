"""Which answers make a pair."""

from __future__ import annotations

from collections import Counter

import pytest

from harness.core.types import ImageRef, Response
from harness.generation.pairs import Judged, balancing_ratio, is_balanced, pairs_of, usable
from harness.generation.settings import PairSettings
from harness.judging.candidates import Prompt, Verdict

PROMPT = Prompt("p", "What is this?", ImageRef(data=b"image"))


def judged(*scores: float | None) -> list[Judged]:
    return [
        Judged(number, Response("p", f"answer {number}", "stop"), Verdict(score)) for number, score in enumerate(scores)
    ]


def numbers(
    *scores: float, per_prompt: int = 2, how: str = "random", gap: float = 1.0, seed: int = 0
) -> list[tuple[int, int]]:
    settings = PairSettings.model_validate({"per_prompt": per_prompt, "how": how})
    return [
        (pair.chosen.number, pair.rejected.number) for pair in pairs_of(PROMPT, judged(*scores), settings, gap, seed)
    ]


def test_pairs_have_the_gap_and_the_better_answer_is_chosen() -> None:
    assert numbers(-2, 0, -0.5, per_prompt=9) == [(1, 0), (2, 0)]
    assert numbers(-2, 0, -0.5, per_prompt=9, gap=0.0) == [(1, 0), (2, 0), (1, 2)]
    assert numbers(1, 1, 1, gap=0.0) == [], "equal scores are no preference"


def test_best_against_worst() -> None:
    assert numbers(0, -1, -3, -2, per_prompt=1, how="best-worst") == [(0, 2)]
    assert numbers(0, -1, -3, -2, per_prompt=3, how="best-worst") == [(0, 2), (0, 3), (1, 2)]


def test_a_random_choice_is_seeded_and_spread() -> None:
    scores = (0, -1, -2, -3, -4)
    assert numbers(*scores) == numbers(*scores)
    drawn = Counter(pair for seed in range(400) for pair in numbers(*scores, seed=seed))
    assert len(drawn) == 10 and min(drawn.values()) > 40, "each of the ten pairs is drawn about 80 times of 400"


def test_what_may_not_be_paired_is_counted() -> None:
    answers = [
        Judged(0, Response("p", "A dog.", "stop"), Verdict(0.0)),
        Judged(1, Response("p", " A dog. ", "stop"), Verdict(0.0)),
        Judged(2, Response("p", "A dog and", "length"), Verdict(0.0)),
        Judged(3, Response("p", " ", "stop"), Verdict(0.0)),
        Judged(4, Response("p", "", "stop", refusal="I cannot."), Verdict(0.0)),
        Judged(5, Response("p", "A cat.", "stop"), Verdict(None)),
        Judged(6, Response("p", "A cow.", "unknown"), Verdict(-1.0)),
    ]
    counts: Counter[str] = Counter()
    assert [answer.number for answer in usable(answers, counts)] == [0, 6]
    assert counts == {"repeated": 1, "cut off": 1, "empty": 1, "refused": 1, "not judged": 1}


def test_lengths_are_balanced_at_the_ratio_with_the_smallest_difference() -> None:
    # Without the pair (2, 20) the means are 11 and 11; the pair goes at any ratio above 0.1.
    lengths = [(2, 20), (10, 12), (12, 10)]
    ratio = balancing_ratio(lengths)
    assert ratio == pytest.approx(0.12) and [is_balanced(words, ratio) for words in lengths] == [False, True, True]
    assert balancing_ratio([(10, 10), (5, 5)]) == 0.0, "nothing to balance: all pairs stay"
    assert balancing_ratio([]) == 0.0
