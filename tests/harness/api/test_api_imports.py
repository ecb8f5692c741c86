"""`harness.import_results` makes the run that the command makes."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness
from harness.core import registry
from harness.core.errors import BadInputError
from harness.worlds.pocket.formats import write_benchmarks
from tests.benchmarks.scoring import jsonl
from tests.commands import json_here


def test_it_makes_the_run_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_benchmarks(0, "validation", tmp_path / "data")
    items = registry.load("benchmarks", "pope")().items(tmp_path / "data" / "pope")[:6]
    jsonl(tmp_path / "answers.jsonl", [{"item": item.id, "text": "Yes."} for item in items])
    with pytest.raises(BadInputError, match="have no response"):
        harness.import_results("answers.jsonl", "pope", data="data")
    record = harness.import_results(
        ["answers.jsonl"], "pope", data="data", name="theirs", model="m", allow_partial=True
    )
    said = json_here("import-results", "answers.jsonl", "--suite", "pope", "--data", "data", "--name", "other",
                     "--model", "m", "--allow-partial")  # fmt: skip
    assert record.n == 6 and record.written()["metrics"] == said["metrics"]
    assert set(harness.leaderboard()["checkpoint"]) == {"theirs", "other"}
    with pytest.raises(BadInputError, match="one suite at a time"):
        harness.import_results("answers.jsonl", "pope,mmhal")
