"""`harness.import_results` makes the run that the command makes."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness
from harness.api.targets import targets_of
from harness.core import registry
from harness.core.errors import BadInputError
from harness.runs.folders import open_run
from harness.runs.targets import target_of_endpoint
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
    with pytest.raises(BadInputError, match="so there is no model to ask"):
        harness.evaluate("theirs", "pope", data="data", backend="transformers")
    with pytest.raises(BadInputError, match="the base model of imported answers is unknown"):
        harness.evaluate("theirs", "pope", base=True, backend="transformers")


def test_what_stands_behind_an_endpoint_is_evaluated_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = target_of_endpoint("vlm", Path("results"))
    target.begin()
    run = open_run(target.folder)
    assert targets_of([run], Path("results"), base=False, remote=True) == ([target], "official")
    with pytest.raises(BadInputError, match="'vlm' is a model behind an endpoint") as refused:
        harness.evaluate("vlm", "pope", backend="transformers", data="data")
    assert "--endpoint" in str(refused.value.remedy)
    endpoint = "http://127.0.0.1:9/v1"
    for checkpoint in (run, "vlm"):
        with pytest.raises(BadInputError, match="the base model of an endpoint's model is unknown"):
            harness.evaluate(checkpoint, "pope", base=True, endpoint=endpoint)
    with pytest.raises(BadInputError, match="'a-model' is the name of no run"):
        harness.evaluate("a-model", "pope", base=True, backend="transformers")
    with pytest.raises(BadInputError, match="nothing to evaluate"):
        harness.evaluate([], "pope", backend="transformers")
    begun = Path("results/half")
    begun.mkdir()
    (begun / "config.json").write_text("{}")
    with pytest.raises(BadInputError, match="the run 'half' is not complete"):
        harness.evaluate("half", "pope", backend="transformers", data="data")
