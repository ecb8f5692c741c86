"""MMStar against its mmstar.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.choices import mmstar_official
from benchmarks.mmstar import CATEGORIES, MMStar
from harness.core.stats import Counts

pytestmark = pytest.mark.conformance

CASES = ("perfect", "all_a", "random", "noisy_25", "noisy_50", "prose", "text_instead_of_letter", "odd")


@pytest.fixture(scope="module")
def folder(conformance: Path) -> Path:
    return conformance / "suites" / "mmstar"


def test_every_recorded_case_is_listed_here(folder: Path) -> None:
    assert {path.name.removesuffix(".answers.jsonl") for path in folder.glob("*.answers.jsonl")} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_case(folder: Path, case: str) -> None:
    expected = json.loads((folder / "aggregates.json").read_text())[case]["official_score_json"]
    benchmark, answers = MMStar(), folder / f"{case}.answers.jsonl"
    items, responses = benchmark.read_offline({"questions": folder / "items.jsonl", "responses": answers})
    scores = benchmark.score(items, responses)
    rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    right = {score.item_id: score.details["said"] == score.details["label"] for score in scores}
    assert right == {str(row["index"]): row["official"] for row in rows}
    totals = Counts.of(scores).totals()
    official = benchmark.official(totals)
    names = {"accuracy": "final score"}
    for category, below in CATEGORIES.items():
        names |= {f"accuracy.{category}": category}
        names |= {f"accuracy.{category}/{one}": f"{category}({one})" for one in below}
    assert set(names.values()) == set(expected) and set(official) == set(names)
    values = benchmark.aggregate(totals)
    for name, key in names.items():
        assert float(values[name]) == expected[key] and official[name] == str(expected[key])


def test_probes(folder: Path) -> None:
    for probe in json.loads((folder / "probes.json").read_text()):
        read = mmstar_official(probe["prediction"])
        assert ([read] if read else []) == probe["counts_as_right_for"], probe


def test_part_of_the_questions_has_no_official_figure(folder: Path, tmp_path: Path) -> None:
    """There the official script divides by fixed numbers, or stops."""
    rows = (folder / "items.jsonl").read_text().splitlines()
    (tmp_path / "items.jsonl").write_text("\n".join(rows[:-1]))
    answers = (folder / "perfect.answers.jsonl").read_text().splitlines()
    kept = [line for line in answers if json.loads(line)["index"] != json.loads(rows[-1])["index"]]
    (tmp_path / "r.jsonl").write_text("\n".join(kept))
    benchmark = MMStar()
    scores = benchmark.score(
        *benchmark.read_offline({"questions": tmp_path / "items.jsonl", "responses": tmp_path / "r.jsonl"})
    )
    totals = Counts.of(scores).totals()
    assert benchmark.official(totals) == {} and float(benchmark.aggregate(totals)["accuracy"]) == 1
