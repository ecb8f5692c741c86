"""Scores in experiment trackers, written and read back with the real libraries, offline. A library that is not installed skips its test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.core.errors import BadInputError
from harness.core.files import write_json
from harness.publishing.trackers import track, tracked
from harness.runs.folders import Run, find_run
from tests.commands import run_here
from tests.scored_runs import make_run_with_a_rate, one_rate

RATE = {"pope/x/chair_s": 0.25, "pope/x/chair_s_low": 0.125, "pope/x/chair_s_high": 0.5}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    make_run_with_a_rate(tmp_path / "results")
    return find_run("one", tmp_path / "results")


def test_every_score_has_one_name_and_its_interval(run: Run) -> None:
    content = tracked(run)
    assert RATE.items() <= content.metrics.items() and content.metrics["pope/x/items"] == 40
    assert {name.split("/")[0] for name in content.metrics} == {"halbench", "pope"}
    assert set(content.settings["suites"]) == {name.rpartition("/")[0] for name in content.metrics}
    assert str(run.path.parent) not in json.dumps(content.settings), "no folder of this machine"


def test_two_scores_of_one_name_are_refused(run: Run) -> None:
    write_json(
        run.path / "evals/pope@pictures/scores-y.json",
        one_rate(0.5, 0.25, 0.75) | {"suite": "pope", "title": "POPE", "variant": "x"},
    )
    with pytest.raises(BadInputError, match="two scores of the run would have the name 'pope/x/items'"):
        tracked(run)


def test_the_command_says_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    place = ["publish", "one", "--results", str(run.path.parent)]
    ended, _, said = run_here(place)
    assert ended == 2 and "--tracker mlflow" in said
    ended, _, said = run_here([*place, "-o", "made"])
    assert ended == 2 and "--organisation" in said
    monkeypatch.setattr("harness.core.packages.is_installed", lambda module: False)
    ended, _, said = run_here([*place, "--tracker", "mlflow"])
    assert ended == 2 and "pip install mlflow" in said


@pytest.mark.claims("publish --tracker", "publish --project")
def test_mlflow_has_the_scores(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    ended, out, said = run_here(
        ["publish", "one", "--results", str(run.path.parent), "--tracker", "mlflow", "--project", "mine", "--json"]
    )
    assert ended == 0, said
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    [kept] = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert json.loads(out) == [f"mlflow: sqlite:///{tmp_path / 'mlflow.db'}, run {kept.info.run_id}"]
    assert kept.data.metrics == pytest.approx(dict(tracked(run).metrics))
    assert kept.data.params["suites/pope/x/variant"] == "x" and kept.info.status == "FINISHED"


def test_trackio_has_the_scores(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    monkeypatch.setattr(trackio, "TRACKIO_DIR", tmp_path / "trackio")
    place = track(run, "trackio", "mine")
    assert "project mine" in place
    [kept] = trackio.Api().runs("mine")
    assert kept.name == "one"
    [logged] = trackio.SQLiteStorage.get_logs("mine", "one")
    assert {name: logged[name] for name in RATE} == RATE


def test_wandb_has_the_scores_offline(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    [log] = Path(track(run, "wandb", "mine")).glob("run-*.wandb")
    logged = log.read_bytes()
    assert all(name.encode() in logged and str(value).encode() in logged for name, value in RATE.items())
