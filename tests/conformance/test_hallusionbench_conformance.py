"""HallusionBench against its evaluation.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.hallusionbench import HallusionBench, HallusionSettings
from harness.core.stats import Counts

pytestmark = pytest.mark.conformance

CASES = (
    "perfect", "all_yes", "all_no", "noisy_10", "noisy_30", "prose", "unclear", "odd", "malformed_judge",
)  # fmt: skip
PLAIN = tuple(case for case in CASES if case not in ("odd", "malformed_judge"))
"""Cases whose replies are all plain."""
LEADERBOARD = {
    "a_acc": "q_acc_gpt",
    "q_acc": "pair_acc_gpt",
    "f_acc": "figure_acc_gpt",
    "q_acc.easy": "easy_acc_gpt",
    "q_acc.hard": "hard_acc_gpt",
}


@pytest.fixture(scope="module")
def folder(conformance: Path) -> Path:
    return conformance / "suites" / "hallusionbench"


def scored(folder: Path, case: str, **settings: Any) -> tuple[HallusionBench, list[Any], list[dict[str, Any]]]:
    answers = folder / f"{case}.answers.jsonl"
    files = {"questions": folder.parent / "data" / "HallusionBench" / "HallusionBench.json", "responses": answers}
    benchmark = HallusionBench(HallusionSettings(**settings))
    items, responses = benchmark.read_offline(files if settings else {**files, "reviews": answers})
    scores = benchmark.score(items, responses, benchmark.offline_judge)
    return benchmark, scores, [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]


def test_every_recorded_case_is_listed_here(folder: Path) -> None:
    assert {path.name.removesuffix(".answers.jsonl") for path in folder.glob("*.answers.jsonl")} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_case(folder: Path, case: str) -> None:
    expected = json.loads((folder / "aggregates.json").read_text())[case]["official"]
    benchmark, scores, rows = scored(folder, case)
    read = {row["id"]: row["correctness"] for row in rows}
    assert {score.item_id: score.details["official_mark"] for score in scores} == read
    same = {row["id"]: row["same"] == "1" for row in rows}
    asked = {one.item_id: one.details["official_same"] for one in scores if one.details["official_same"] is not None}
    assert all(same[name] == value for name, value in asked.items())
    official = benchmark.official_of(scores)
    assert {name: float(official[name]) for name in LEADERBOARD} == {
        name: expected["leaderboard"][key] for name, key in LEADERBOARD.items()
    }
    if case == "perfect":  # without a wrong answer the script divides by zero
        assert set(official) == set(LEADERBOARD)
        return
    cells = re.findall(r"[\d.e-]+", expected["stdout"].splitlines()[-2])
    names = ("pct_diff", "fp_ratio", "f_acc", "figures_inconsistent", "figures_wrong")
    assert [official[name] for name in names] == cells[:5]
    assert [official[f"errors.{kind}"] for kind in ("language", "visual", "mixed")] == cells[5:]


@pytest.mark.parametrize("case", PLAIN)
def test_our_figures_are_the_official_ones_where_every_reply_is_plain(folder: Path, case: str) -> None:
    expected = json.loads((folder / "aggregates.json").read_text())[case]["official"]["vars"]
    benchmark, scores, _ = scored(folder, case)
    values = {name: float(value) for name, value in benchmark.aggregate(Counts.of(scores).totals()).items()}
    for part, ending in (("", ""), (".VD", "_vd"), (".VS", "_vs")):
        rows = expected[f"per_question{ending}"]
        assert values[f"a_acc{part}"] == rows["correct"] / rows["total"]
        pairs, figures = expected[f"all{ending or '_data'}"], expected[f"fig{ending or '_all'}"]
        assert values[f"q_acc{part}"] == pairs["correct"] / pairs["total"]
        assert values[f"f_acc{part}"] == figures["correct"] / figures["total"]
    assert values["figures_wrong"] == expected["fig_all"]["wrong"] / expected["fig_all"]["total"]
    assert values["q_acc.easy"] == expected["easy"]["correct"] / expected["easy"]["total"]


def test_match(folder: Path) -> None:
    """Reading yes and no from the words; the toolkits count the 951 questions with an image."""
    recorded = json.loads((folder / "aggregates.json").read_text())["noisy_10"]["toolkits"]
    benchmark, scores, rows = scored(folder, "noisy_10", scoring="match")
    totals = Counts.of(scores).totals()
    assert (totals["rows"], totals["rows.images"], totals["q.images.n"], totals["f.n"]) == (1129, 951, 455, 346)
    values = benchmark.aggregate(totals)
    overall = recorded["vlmevalkit_rules_951_image_questions"]["Overall"]
    for name, key in (("a_acc.images", "aAcc"), ("f_acc", "fAcc"), ("q_acc.images", "qAcc")):
        assert float(values[name]) * 100 == pytest.approx(overall[key], abs=1e-9)
    read = {row["id"]: {"Yes": "yes", "No": "no"}.get(row["vlmevalkit"]) for row in rows}
    assert {one.item_id: one.details["read"] for one in scores} == read
