"""A recipe is a file, a run that was trained before, or a shipped name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aligners.base import Aligner
from aligners.preferences.options import DataOptions
from harness.alignment.align import AlignRequest, _settings
from harness.alignment.recipes import settings_of, shipped, summary_of
from harness.core import registry
from harness.core.config import TrainSettings, merged, parse
from harness.core.errors import BadInputError, UnknownNameError
from harness.core.files import write_json
from harness.experiments.arms import Arm
from harness.experiments.graph import settings_of as experiment_settings
from harness.experiments.spec import find_experiment, read_experiment
from harness.models import resolve
from harness.records.manifest_file import AlignConfig, StartRecord
from tests.commands import run_here


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_recipe_is_what_the_method_does_by_default(name: str) -> None:
    method = name.rpartition("-")[0]
    kind: type[Aligner] = registry.load("aligners", method)
    recipe = settings_of(name, method)
    whole = merged({"train": dict(kind.train_defaults)}, recipe)
    assert parse(TrainSettings, whole["train"], "train") == parse(TrainSettings, dict(kind.train_defaults), "train")
    assert parse(kind.Settings, recipe["method"], "method") == kind.Settings()
    assert {"beta"} < {*recipe["method"], "images"} and len(summary_of(shipped()[name])) > 20


def test_the_settings_of_a_run(tmp_path: Path) -> None:
    kind: type[Aligner] = registry.load("aligners", "dpo")
    train = TrainSettings(learning_rate=3e-4, seed=7, report_to=("tensorboard",))
    settings = {"train": train.model_dump(), "method": kind.Settings(beta=0.3).model_dump(mode="json")}
    config = AlignConfig(method="dpo", model="m", data="d", settings=settings)
    (tmp_path / "config.json").write_text(json.dumps(config.written()))
    for recipe in (tmp_path, tmp_path / "config.json"):
        found = settings_of(str(recipe), "dpo")
        assert parse(TrainSettings, found["train"], "train") == train
        assert parse(kind.Settings, found["method"], "method").beta == 0.3
    with pytest.raises(BadInputError, match="settings of the method 'dpo', not of 'mfpo'"):
        settings_of(str(tmp_path), "mfpo")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInputError, match="not the configuration of an aligned run"):
        settings_of(str(tmp_path), "dpo")
    for path in ("none.yaml", "results/none", "", "x" * 5000):
        with pytest.raises(BadInputError, match=r"recipe"):
            settings_of(path, "dpo")
    with pytest.raises(UnknownNameError, match="mfpo-papr"):
        settings_of("mfpo-papr", "mfpo")


@pytest.mark.parametrize(
    ("given", "beta", "per_token"),
    [
        ({}, 3.0, False),
        ({"loss": "sigmoid"}, 3.0, False),
        ({"loss": "ipo"}, 0.1, True),
        ({"loss": "simpo"}, 2.0, True),
        ({"loss": "ipo", "beta": 0.7}, 0.7, True),
    ],
)
def test_another_loss_than_the_worlds_has_its_own_defaults(given: dict[str, Any], beta: float, per_token: bool) -> None:
    """In `align` and in experiments; the world's beta was chosen for `sigmoid`."""
    kind: type[Aligner] = registry.load("aligners", "dpo")
    request = AlignRequest("dpo", "pocket", Path("results"), settings={"method": given} if given else {})
    train, aligner = _settings(kind, resolve("pocket"), request)
    settings: Any = aligner.settings
    assert (settings.beta, settings.per_token) == (beta, per_token)
    assert train.learning_rate == 3e-4, "the world's training settings stay"
    arm = Arm("arm", "arm", "dpo", None, {"method": given} if given else {}, {})
    assert experiment_settings(read_experiment(find_experiment("smoke")), arm, 0, "pocket")[1] == settings


def test_a_run_is_done_again_with_its_model_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind: type[Aligner] = registry.load("aligners", "dpo")
    settings = {"train": TrainSettings(seed=7).model_dump(), "method": kind.Settings(beta=0.3).model_dump(mode="json")}
    about = {"method": "dpo", "model": "some/model", "data": "d.jsonl", "limit": 9, "on_error": "skip"}
    config = AlignConfig(**about, columns={"prompt": "query"}, image_root=str(tmp_path), settings=settings)
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "config.json", config.written())
    asked: list[Any] = []
    monkeypatch.setattr("harness.alignment.align.plan_align", lambda request: asked.append(request) or {})

    def align(*options: str, code: int = 0) -> str:
        ended, _, said = run_here(["align", "--recipe", str(tmp_path / "run"), "--dry-run", "--json", *options])
        assert ended == code, said
        return said

    align()
    align("--model", "other/model", "--data", "mine.jsonl", "--set", "method.beta=0.5")
    align("--set", "method.loss=simpo")
    again, changed, other = asked
    assert other.settings["method"] == {"loss": "simpo"}, "the recipe's beta is one of DPO's own loss"
    assert (again.method, again.model, again.data, again.limit, again.on_error) == tuple(about.values())
    assert again.data_options == DataOptions.of({"prompt": "query"}, tmp_path)
    assert (again.settings["train"]["seed"], again.settings["method"]["beta"]) == (7, 0.3)
    assert (changed.model, changed.data, changed.limit, changed.on_error) == ("other/model", "mine.jsonl", None, "fail")
    assert changed.data_options == DataOptions() and changed.settings["method"]["beta"] == 0.5
    assert "settings of the method 'dpo', not of 'mfpo'" in align("--method", "mfpo", code=2)
    started = config.model_copy(update={"start": StartRecord(run="first", fingerprint="f")})
    write_json(tmp_path / "run" / "config.json", started.written())
    assert "--start FOLDER" in align(code=2)
    ended, _, said = run_here(["align", "--model", "some/model"])
    assert ended == 2 and "Missing option '--method'" in said
