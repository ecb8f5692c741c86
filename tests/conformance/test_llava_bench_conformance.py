"""LLaVA-Bench against its eval_gpt_review_bench.py and summarize_gpt_review.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.llava_bench import LLaVABench, official_pair
from harness.core.stats import Counts

pytestmark = pytest.mark.conformance

CASES = (
    "equal_8", "always_lower", "realistic", "malformed_10", "malformed_40", "odd", "all_malformed", "rounding",
    "real_llava-v1.5-13b-eval1", "real_llava-v1.5-13b-eval2", "real_llava-v1.5-7b-eval1",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(conformance: Path) -> Path:
    return conformance / "suites" / "llavabench"


def test_every_recorded_case_is_listed_here(folder: Path) -> None:
    assert {path.name.removesuffix(".reviews.jsonl") for path in folder.glob("*.reviews.jsonl")} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_case(folder: Path, case: str) -> None:
    recorded = json.loads((folder / "aggregates.json").read_text())
    expected = recorded[case] if case in recorded else recorded["quirks"]["rounded_means_change_the_last_digit"]
    benchmark = LLaVABench()
    items, responses = benchmark.read_offline({"reviews": folder / f"{case}.reviews.jsonl"})
    scores = benchmark.score(items, responses, benchmark.offline_judge)
    rows = [json.loads(line) for line in (folder / f"{case}.reviews.jsonl").read_text(encoding="utf-8").splitlines()]
    for row, score in zip(rows, scores, strict=True):
        assert [str(float(value)) for value in score.details["official_pair"]] == [
            str(float(one)) for one in row["tuple"]
        ]
    official = benchmark.official_of(scores)
    for key, figures in expected["printed"].items():
        part = "" if key == "all" else f".{key.removeprefix('llava_bench_')}"
        assert official[f"relative{part}"] == str(figures["relative"])
    assert official["score.model"] == str(expected["printed"]["all"]["model"])
    assert official["score.reference"] == str(expected["printed"]["all"]["reference"])
    if "unrounded_from_the_same_tuples" in expected and all(score.unscored is None for score in scores):
        whole = expected["unrounded_from_the_same_tuples"]["all"]
        if not whole["n_minus_one"]:
            values = benchmark.aggregate(Counts.of(scores).totals())
            assert float(values["relative"]) == pytest.approx(whole["relative"], abs=1e-9)


def test_probes(folder: Path) -> None:
    for probe in json.loads((folder / "probes.json").read_text()):
        read = [str(value) for value in official_pair(probe["reply"])]
        assert read == [str(float(value)) for value in probe["official"]], probe
