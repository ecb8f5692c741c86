"""MMHal-Bench against the official summary of judge replies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.mmhal import TYPES, MMHalBench

pytestmark = pytest.mark.conformance


@pytest.mark.parametrize("name", ["well_formed", "mixed", "malformed"])
def test_set(conformance: Path, name: str) -> None:
    expected = json.loads((conformance / "mmhal" / "aggregates.json").read_text())
    assert tuple(expected["question_type_order"]) == TYPES and name in expected["sets"]
    assert len(expected["sets"]) == 3
    expected = expected["sets"][name]
    path = conformance / "mmhal" / f"{name}.reviews.jsonl"
    benchmark = MMHalBench()
    items, responses = benchmark.read_offline({"reviews": path})
    scores = benchmark.score(items, responses, benchmark.offline_judge)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for score, row in zip(scores, rows, strict=True):
        rating = score.details["official_rating"]
        assert (rating - 3 if rating >= 3 else rating) == row["informativeness"], row["index"]
        assert score.details["type"] == row["question_type"]
    shown = benchmark.official_of(scores)
    assert shown["score"] == f"{expected['average_score']:.2f}"
    assert shown["hallucination_rate"] == f"{expected['hallucination_rate']:.2f}"
    assert shown["informativeness"] == f"{expected['informativeness_printed']:.2f}"
    assert [float(shown[f"score.{kind}"]) for kind in TYPES] == expected["average_score_per_question_type"]
    # A reply that the script warns of counts as 0 there; here it counts as unscored wherever it cannot be read.
    unscored = sum(score.unscored is not None for score in scores)
    assert unscored <= expected["n_warnings"] and (unscored == 0) == (expected["n_warnings"] == 0)
