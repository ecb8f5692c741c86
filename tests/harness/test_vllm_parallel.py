"""Several engines on one machine, for real: they answer as one does, each image at one of them, and a kill of one loses nothing."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.chaos.kills import QUESTIONS_AN_IMAGE, Outcome, killed, make, undisturbed

ITEMS, ENGINES = 200 * QUESTIONS_AN_IMAGE, 2

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < ENGINES, reason="an engine wants a core of its own"),
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.timeout(1800),  # four starts of an engine: more than the usual time on a busy machine
]


def test_two_engines_answer_as_one_and_survive_the_kill_of_one(tmp_path: Path) -> None:
    make(tmp_path, ITEMS)
    one, both = undisturbed(tmp_path, "vllm"), undisturbed(tmp_path, "vllm", ENGINES)
    assert len(one.times) == ITEMS and set(both.times.values()) == {1}
    assert both.texts == one.texts and both.metrics == one.metrics
    assert "engines" not in one.serving
    engines = both.serving["engines"]
    assert len({str(engine["cores"]) for engine in engines}) == ENGINES == len(engines)
    answers = [engine["answers"] for engine in engines]
    assert sum(answers) == ITEMS and min(answers) > ITEMS / 5, "one of them idled"
    assert not any(count % QUESTIONS_AN_IMAGE for count in answers), "an image went to both: their caches are of no use"

    *_, outcome = killed(tmp_path, "vllm", "engine", ITEMS, 1, engines=ENGINES)
    assert isinstance(outcome, Outcome) and len(outcome.errors) == 1 and outcome.answered[0] < ITEMS
    assert "the same command goes on from there" in " ".join(outcome.errors[0].split())
    assert outcome.times == one.times and outcome.texts == one.texts and outcome.metrics == one.metrics
