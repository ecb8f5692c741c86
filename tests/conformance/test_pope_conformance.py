"""POPE against its evaluate.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.pope import POPE, POPEAOKVQA, POPEGQA
from harness.core.stats import Counts

pytestmark = pytest.mark.conformance

CASES = (
    "random_all_yes",
    "random_all_no",
    "random_perfect",
    "random_noisy",
    "random_freetext",
    "popular_yesbias",
    "popular_noisy",
    "popular_freetext",
    "adversarial_all_yes",
    "adversarial_freetext",
    "adversarial_no_then_yes",
)
RATES = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1 score",
    "yes_ratio": "Yes ratio",
}


def test_every_recorded_case_is_listed_here(conformance: Path) -> None:
    assert set(json.loads((conformance / "pope" / "aggregates.json").read_text())) == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_case(conformance: Path, case: str) -> None:
    expected = json.loads((conformance / "pope" / "aggregates.json").read_text())[case]
    benchmark, answers = POPE(), conformance / "pope" / f"{case}.answers.jsonl"
    items, responses = benchmark.read_offline({"questions": conformance / expected["label_file"], "responses": answers})
    scores = benchmark.score(items, responses)
    read = [json.loads(line)["expected_pred"] for line in answers.read_text(encoding="utf-8").splitlines()]
    assert [score.details["said"] for score in scores] == read
    totals = Counts.of(scores).totals()
    split = expected["split"]
    assert [totals[f"{split}.{cell}"] for cell in ("tp", "fp", "tn", "fn")] == [
        expected[cell] for cell in ("TP", "FP", "TN", "FN")
    ]
    values, official = benchmark.aggregate(totals), benchmark.official(totals)
    if expected["exception"]:  # the script stops before it prints a rate
        assert official == {}
        return
    printed = dict(line.split(": ") for line in expected["stdout"].splitlines() if ": " in line)
    for rate, name in RATES.items():
        assert float(values[rate]) == float(values[f"{split}.{rate}"]) == expected[rate]
        assert official[rate] == printed[name]


@pytest.mark.parametrize(("kind", "source"), [(POPE, "coco"), (POPEAOKVQA, "seem/aokvqa"), (POPEGQA, "seem/gqa")])
def test_question_files_read(conformance: Path, kind: type[POPE], source: str) -> None:
    """All three sets of questions, in the layout of a data folder: three splits, all right answers give 1."""
    benchmark = kind()
    items = benchmark.items(conformance / "data" / "POPE" / "output" / source)
    assert len(items) == 9000
    assert {item.reference["split"] for item in items} == {"random", "popular", "adversarial"}
    from harness.core.types import Response

    scores = benchmark.score(items, {item.id: Response(item.id, item.reference["label"]) for item in items})
    values = benchmark.aggregate(Counts.of(scores).totals())
    assert float(values["accuracy"]) == float(values["f1"]) == float(values["accuracy[strict]"]) == 1
    assert float(values["unreadable"]) == 0
