"""Several engines on one machine, for real: each image at one of them, a kill loses nothing, one alone answers the rest as both do."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.chaos.kills import QUESTIONS_AN_IMAGE, Outcome, killed, make, undisturbed

ENGINES = 2

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < ENGINES, reason="an engine wants a core of its own"),
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.timeout(1800),  # five starts of an engine: more than the usual time on a busy machine
]


def survived(folder: Path, items: int) -> Outcome:
    """What is left where one of two engines was killed, and one alone answered the rest."""
    *_, outcome = killed(folder, "vllm", "engine", items, 1, seed=1, engines=ENGINES, engines_at_last=1)
    assert isinstance(outcome, Outcome) and len(outcome.errors) == 1
    assert "run the same command again to resume" in " ".join(outcome.errors[0].split())
    assert "engines" not in outcome.serving and outcome.answered[0] < items * 0.9, (
        "one alone had nothing left to answer"
    )
    assert len(outcome.times) == items and set(outcome.times.values()) == {1}
    return outcome


@pytest.mark.exhaustive
def test_two_engines_survive_the_kill_of_one(tmp_path: Path) -> None:
    items = 100 * QUESTIONS_AN_IMAGE
    make(tmp_path, items)
    survived(tmp_path, items)


@pytest.mark.exhaustive
def test_two_engines_share_the_images_and_answer_as_one_does_after_a_kill(tmp_path: Path) -> None:
    items = 200 * QUESTIONS_AN_IMAGE
    make(tmp_path, items)
    both = undisturbed(tmp_path, "vllm", ENGINES)
    assert len(both.times) == items and set(both.times.values()) == {1}
    engines = both.serving["engines"]
    assert len({str(engine["cores"]) for engine in engines}) == ENGINES == len(engines)
    answers = [engine["answers"] for engine in engines]
    assert sum(answers) == items and min(answers) > items / 5, "one of them idled"
    assert not any(count % QUESTIONS_AN_IMAGE for count in answers), "an image went to both: their caches are of no use"
    outcome = survived(tmp_path, items)
    assert outcome.times == both.times and outcome.texts == both.texts and outcome.metrics == both.metrics
