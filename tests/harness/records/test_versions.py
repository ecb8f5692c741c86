"""Files of earlier versions are read as they were meant; files of later ones are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness import load_runs
from harness.analysis.leaderboard import collect
from harness.analysis.scored import scored
from harness.core.errors import BadInputError
from harness.core.files import write_json
from harness.records.manifest_file import ManifestRecord
from harness.records.score_files import ScoresRecord, read_scores
from harness.runs.folders import open_run, read_runs
from tests.commands import run_here
from tests.scored_runs import make_run

KEPT = Path(__file__).parents[2] / "kept" / "version-0.1"
"""A tiny model and an alignment of it, scored on Object HalBench and POPE by version 0.1; and what that version showed of them."""


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A copy, as commands may write beside what they read."""
    shutil.copytree(KEPT, tmp_path / "kept")
    return tmp_path / "kept"


@pytest.mark.parametrize("command", [["leaderboard"], ["compare", "base-base", "dpo"]], ids=lambda words: words[0])
def test_what_version_0_1_scored_is_shown_as_it_was(kept: Path, command: list[str]) -> None:
    code, out, said = run_here([*command, "--json"], kept)
    assert code == 0, said
    assert numbers(json.loads(out)) == numbers(json.loads((kept / f"{command[0]}.json").read_text()))


def numbers(value: Any) -> Any:
    """Without sentences, whose words change from version to version."""
    if isinstance(value, dict):
        return {key: numbers(one) for key, one in value.items() if key not in ("notes", "caption")}
    return [numbers(one) for one in value] if isinstance(value, list) else value


def test_what_version_0_1_scored_is_in_report_and_frames(kept: Path) -> None:
    code, _, said = run_here(["report", "-o", "report.html"], kept)
    assert code == 0, said
    page = (kept / "report.html").read_text()
    assert "Hallucination against recall: halbench" in page and '"verdict":"wrong: false no"' in page
    frames = load_runs(results=kept / "results")
    assert set(frames.metrics["suite"]) == {"halbench", "pope"} and len(frames.items) == 18


def paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("results/dpo/evals/*/scores*.json"))


def test_a_file_without_a_schema_is_of_the_first(kept: Path) -> None:
    for path in paths(kept):
        record = read_scores(path)
        assert record.schema_number == 1 and all(one.kind is None for one in record.metrics.values())


def test_a_file_of_a_later_version_is_refused(kept: Path) -> None:
    path = paths(kept)[0]
    later = ScoresRecord.KNOWN + 1
    record = json.loads(path.read_text()) | {"schema": later}
    del record["metrics"]
    write_json(path, record)
    with pytest.raises(
        BadInputError, match=f"newer version of harness wrote it .schema {later}; this version reads up"
    ):
        read_scores(path)
    found, reasons = scored(open_run(kept / "results" / "dpo"))
    assert [one.record.suite for one in found] == ["pope"] and "upgrade harness" in reasons[0]


def test_a_run_of_a_later_version_is_left_out_and_said(kept: Path) -> None:
    path = kept / "results" / "dpo" / "manifest.json"
    assert "schema" not in json.loads(path.read_text())
    write_json(path, json.loads(path.read_text()) | {"schema": ManifestRecord.KNOWN + 1})
    runs, reasons = read_runs(kept / "results")
    assert [run.name for run in runs] == ["base-base"]
    [reason] = reasons
    assert "dpo" in reason and "a newer version of harness wrote it" in reason and "upgrade harness" in reason
    code, _, said = run_here(["compare", "base-base", "dpo"], kept)
    assert code == 2 and "upgrade harness" in said


def test_scores_say_what_is_needed_to_show_them_without_the_suite(tmp_path: Path) -> None:
    """Of a suite that is not installed any more, the frontier and the diagnostics are shown all the same."""
    for name, text in (("base", "A dog."), ("other", "A dog and a cat.")):
        make_run(tmp_path, name, [text] * 4)
        [path] = tmp_path.glob(f"{name}/evals/*/scores*.json")
        record: dict[str, Any] = json.loads(path.read_text())
        assert record["schema"] == ScoresRecord.KNOWN
        write_json(path, record | {"suite": "gone"})
    [board] = collect(tmp_path)
    columns = {column.metric: column for column in board.columns}
    assert columns["object_recall"].invented_by == "chair_s" and columns["chair_s"].ranked
