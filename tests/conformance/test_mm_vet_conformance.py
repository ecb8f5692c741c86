"""MM-Vet against its mm-vet_evaluator.py."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.mm_vet import CAPABILITIES, COMBINATIONS, MMVet, official_grade
from harness.core.stats import Counts

pytestmark = pytest.mark.conformance

CASES = (
    "all_one", "all_zero", "realistic", "realistic_5runs", "malformed_some", "odd_accepted", "always_malformed",
    "real_llava-v1.5-13b_3runs", "real_llava-v1.5-7b_1runs",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(conformance: Path) -> Path:
    return conformance / "suites" / "mmvet"


@pytest.fixture(scope="module")
def questions(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official file with placeholders for the texts, which scoring does not read."""
    path = tmp_path_factory.mktemp("mm-vet") / "mm-vet.json"
    keys = json.loads((folder / "capabilities.json").read_text())
    path.write_text(
        json.dumps(
            {
                name: {"imagename": f"{name}.png", "question": "Q", "answer": "A", "capability": rows}
                for name, rows in keys.items()
            }
        )
    )
    return path


def test_every_recorded_case_is_listed_here(folder: Path) -> None:
    assert {path.name.removesuffix(".grades.jsonl") for path in folder.glob("*.grades.jsonl")} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_case(folder: Path, questions: Path, tmp_path: Path, case: str) -> None:
    expected = json.loads((folder / "aggregates.json").read_text())[case]["official"]
    rows = [json.loads(line) for line in (folder / f"{case}.grades.jsonl").read_text(encoding="utf-8").splitlines()]
    grades = {row["id"]: {"model": [], "content": row["stored_content"], "score": row["score"]} for row in rows}
    (tmp_path / "grades.json").write_text(json.dumps(grades))
    benchmark = MMVet()
    items, responses = benchmark.read_offline({"questions": questions, "reviews": tmp_path / "grades.json"})
    scores = benchmark.score(items, responses, benchmark.offline_judge)
    official = benchmark.official_of(scores)
    values = benchmark.aggregate(Counts.of(scores).totals())
    printed, exact = expected["printed_1_decimal"], expected["decimals_12"]
    for table, names, part in (("cap", (*CAPABILITIES, "total"), "total"), ("cap_int", COMBINATIONS, "total.only")):
        for name in names:
            metric = part if name == "total" else f"{part}.{name}"
            assert float(official[metric]) == printed[table][name], metric
            assert float(values[metric]) * 100 == pytest.approx(exact[table][name], abs=1e-9), metric


def test_replies(folder: Path) -> None:
    """Where the first reply can be read, it is the grade."""
    for case in CASES:
        for line in (folder / f"{case}.grades.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if len(row.get("replies", ())) == len(row["score"]):
                assert [official_grade(reply) for reply in row["replies"]] == row["score"]


def test_probes(folder: Path) -> None:
    for probe in json.loads((folder / "probes.json").read_text()):
        grade = official_grade(probe["reply"])
        assert (grade is not None) == probe["read_at_once"], probe
        if grade is not None and math.isfinite(grade):
            assert grade == probe["score"]
