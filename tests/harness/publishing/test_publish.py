"""What is published is what was measured, in forms that others read: the hub's, Every Eval Ever's, and ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

import harness
from harness.core.errors import BadInputError
from harness.core.files import read_json, write_json
from harness.publishing import Publication, publish
from harness.records.score_files import read_scores
from harness.runs.folders import find_run
from tests.commands import json_here, run_here
from tests.scored_runs import make_run_with_a_rate

SCHEMA = Path(__file__).with_name("eval.schema.json")
"""From every-eval-ever 0.3.0 (MIT licence, beside it)."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    make_run_with_a_rate(tmp_path / "results")
    return tmp_path / "results"


def made(results: Path, **options: Any) -> tuple[Path, list[Path]]:
    output = results.parent / "published"
    return output, publish(Publication(find_run("one", results), output, "us", **options))


def test_every_record_is_valid_and_has_the_measured_values(results: Path) -> None:
    output, files = made(results)
    schema = json.loads(SCHEMA.read_text())
    records = {file.parts[2]: read_json(output / file) for file in files if file.parts[0] == "every_eval_ever"}
    assert set(records) == {"halbench", "pope"}
    for record in records.values():
        jsonschema.Draft7Validator(schema).validate(record)
    (rate,) = records["pope"]["evaluation_results"]
    details = rate["score_details"]
    assert (details["score"], rate["metric_config"]["lower_is_better"]) == (0.25, True)
    interval = details["uncertainty"]["confidence_interval"]
    assert (interval["lower"], interval["upper"], interval["confidence_level"]) == (0.125, 0.5, 0.95)
    assert details["uncertainty"]["num_samples"] == 40 and rate["metric_config"]["additional_details"] == {
        "variant": "x"
    }
    scores = read_scores(next((results / "one").glob("evals/halbench@pictures/scores*.json")))
    told = {row["metric_config"]["metric_id"]: row for row in records["halbench"]["evaluation_results"]}
    for name, metric in scores.metrics.items():
        directed = metric.value is not None and metric.higher_is_better is not None
        assert (f"halbench.{name}" in told) == directed
        if directed:
            row = told[f"halbench.{name}"]
            assert row["score_details"]["score"] == metric.value
            assert row["metric_config"]["lower_is_better"] is not metric.higher_is_better
    assert records["pope"]["source_metadata"]["evaluator_relationship"] == "third_party"
    assert records["pope"]["model_info"]["id"] == "us/one"


def test_a_rate_without_an_interval_is_published(results: Path) -> None:
    """One image has no interval: `harness eval --limit 1`."""
    path = results / "one/evals/pope@pictures/scores-x.json"
    scores = read_json(path)
    scores["metrics"]["chair_s"]["ci"] = None
    write_json(path, scores)
    output, files = made(results)
    (record,) = (read_json(output / file) for file in files if file.parts[:3] == ("every_eval_ever", "data", "pope"))
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).validate(record)
    (rate,) = record["evaluation_results"]
    assert rate["score_details"]["score"] == 0.25 and "uncertainty" not in rate["score_details"]
    assert (rate["metric_config"]["min_score"], rate["metric_config"]["max_score"]) == (0, 1)


def test_the_card_is_read_by_the_hub(results: Path) -> None:
    output, _ = made(results)
    card = ModelCard.load(output / "README.md")
    name, rows = model_index_to_eval_results(yaml.safe_load(card.content.split("---")[1])["model-index"])
    by_suite = {(row.dataset_type, row.metric_type): row for row in rows}
    row = by_suite["pope", "chair_s"]
    assert (name, row.metric_value, row.metric_name, row.dataset_split) == ("one", 25.0, "CHAIRs [x]", "toy")
    assert row.metric_args["confidence_interval"] == [12.5, 50.0] and row.metric_args["items"] == 40
    assert "| pope (toy) | CHAIRs | 25.0 | 12.5 to 50.0 | 40 |" in card.content


def test_others_compare_with_the_folder(results: Path) -> None:
    output, files = made(results)
    assert not any(file.suffix == ".jsonl" for file in files)
    frame = harness.leaderboard(output / "results")
    assert set(frame["checkpoint"]) == {"one"} and len(frame) == len(harness.leaderboard(results))
    with pytest.raises(BadInputError, match="the folder exists"):
        made(results)


@pytest.mark.claims(
    "publish --output", "publish --organisation", "publish --relationship", "publish --answers", "publish --results",
    "publish --json",
)  # fmt: skip
def test_the_options(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results.parent)
    files = json_here(
        "publish", "one", "--output", "a", "--organisation", "them", "--relationship", "other", "--answers"
    )
    assert any(file.startswith("a/results/one/evals/halbench@pictures/items") for file in files)
    (record,) = [file for file in files if "/pope/them/one/" in file and file.startswith("a/every_eval_ever/data")]
    assert read_json(Path(record))["source_metadata"]["evaluator_relationship"] == "other"
    results.rename(results.parent / "elsewhere")
    assert run_here(["publish", "one", "-o", "b", "--organisation", "us"])[0] == 2
    ended, out, _ = run_here(["publish", "one", "-o", "b", "--organisation", "us", "--results", "elsewhere"])
    assert ended == 0 and "b/README.md\n" in out
    ended, _, said = run_here(["publish", "one", "-o", "c", "--organisation", "a/b", "--results", "elsewhere"])
    assert ended == 2 and "--organisation" in said and not Path("c").exists()


def test_the_function_does_what_the_command_does(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results.parent)
    files = json_here("publish", "one", "-o", "a", "--organisation", "us", "--answers")
    made_here = harness.publish("one", "b", organisation="us", answers=True)
    assert sorted(file.partition("/")[2].rpartition("/")[0] for file in made_here) == sorted(
        file.partition("/")[2].rpartition("/")[0] for file in files
    )
    assert Path("a/README.md").read_text() == Path("b/README.md").read_text()
    with pytest.raises(BadInputError, match="nothing to write to is named"):
        harness.publish(find_run("one", results))


def test_a_run_without_scores(results: Path) -> None:
    write_json(results / "two/manifest.json", read_json(results / "one/manifest.json") | {"name": "two"})
    with pytest.raises(BadInputError, match="no scores to publish"):
        publish(Publication(find_run("two", results), results.parent / "x", "us"))
