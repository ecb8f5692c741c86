"""MME against its calculation.py."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mme import MME, TASKS, mme_official
from harness.core.stats import Counts

pytestmark = pytest.mark.conformance

CASES = (
    "perfect", "all_yes", "all_no", "all_other", "noisy_10", "noisy_30", "prose", "odd", "llava_v1.5_13b_real",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(conformance: Path) -> Path:
    return conformance / "suites" / "mme"


@pytest.fixture(scope="module")
def keys(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]


def results(folder: Path, case: str, keys: list[dict[str, Any]], target: Path) -> list[dict[str, Any]]:
    """The official result folder of a case; its rows, in the order of the files."""
    rows = [json.loads(line) for line in (folder / f"{case}.answers.jsonl").read_text(encoding="utf-8").splitlines()]
    said = {(row["task"], row["row"]): row for row in rows}
    lines = defaultdict(list)
    for key in keys:
        answer = said[key["task"], key["row"]]["answer"]
        lines[key["task"]].append("\t".join((key["image"], "A question? Please answer yes or no.", key["gt"], answer)))
    for task, own in lines.items():
        (target / f"{task}.txt").write_text("\n".join(own) + "\n", encoding="utf-8")
    return [said[key["task"], key["row"]] for task in TASKS for key in keys if key["task"] == task]


def test_every_recorded_case_is_listed_here(folder: Path) -> None:
    assert {path.name.removesuffix(".answers.jsonl") for path in folder.glob("*.answers.jsonl")} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_case(folder: Path, keys: list[dict[str, Any]], tmp_path: Path, case: str) -> None:
    recorded = json.loads((folder / "aggregates.json").read_text())[case]
    rows = results(folder, case, keys, tmp_path)
    benchmark = MME()
    scores = benchmark.score(*benchmark.read_offline({"responses": tmp_path}))
    assert [score.details["said"] or "other" for score in scores] == [row["read_as"] for row in rows]
    totals = Counts.of(scores).totals()
    values, official = benchmark.aggregate(totals), benchmark.official(totals)
    expected = recorded["official"]
    if expected["exception"]:  # no answer of a task can be read
        assert official == {} and float(values["score.perception"]) == 0
        return
    assert float(values["score.perception"]) == expected["total_perception"]
    assert float(values["score.cognition"]) == expected["total_cognition"]
    assert {task: float(values[f"score.{task}"]) for task in TASKS} == expected["task_scores"]
    printed = re.findall(r"total score: (\S+)", expected["stdout"]) + re.findall(r"  score: (\S+)", expected["stdout"])
    assert [official[f"score.{name}"] for name in ("perception", "cognition")] == printed[:2]
    assert [official[f"score.{task}"] for task in TASKS] == printed[2:]
    for task in TASKS:
        metrics = expected["metrics"][task]
        assert totals[f"{task}.right"] / totals[f"{task}.n"] == metrics["acc"]
        assert totals[f"{task}.both"] / totals[f"{task}.pairs"] == metrics["acc_plus"]


def test_hallucination_subset(folder: Path, keys: list[dict[str, Any]], tmp_path: Path) -> None:
    """The tool alone needs all fourteen tasks; the subset has figures of its own."""
    recorded = json.loads((folder / "aggregates.json").read_text())["llava_v1.5_13b_real"]
    results(folder, "llava_v1.5_13b_real", keys, tmp_path)
    subset = ("existence", "count", "position", "color")
    for task in set(TASKS) - set(subset):
        (tmp_path / f"{task}.txt").unlink()
    benchmark = MME()
    totals = Counts.of(benchmark.score(*benchmark.read_offline({"responses": tmp_path}))).totals()
    values = benchmark.aggregate(totals)
    assert float(values["score.hallucination"]) == sum(recorded["official"]["task_scores"][task] for task in subset)
    assert math.isnan(values["score.perception"]) and benchmark.official(totals) == {}


def test_probes(folder: Path) -> None:
    for probe in json.loads((folder / "probes.json").read_text()):
        assert (mme_official(probe["answer"]) or "other") == probe["official"], probe


def test_lines_out_of_place(folder: Path, keys: list[dict[str, Any]], tmp_path: Path) -> None:
    """The official script pairs neighbouring lines, whatever their images: its figure would be another one."""
    results(folder, "noisy_10", keys, tmp_path)
    lines = (tmp_path / "existence.txt").read_text().splitlines()
    lines[1], lines[2] = lines[2], lines[1]
    (tmp_path / "existence.txt").write_text("\n".join(lines))
    benchmark = MME()
    totals = Counts.of(benchmark.score(*benchmark.read_offline({"responses": tmp_path}))).totals()
    quirk = json.loads((folder / "aggregates.json").read_text())["quirks"]["pairs_by_position"]
    assert float(benchmark.aggregate(totals)["score.existence"]) == quirk["file_order"]["score"]
    assert benchmark.official(totals) == {} and len(benchmark.notes) == 1
