"""A recipe is a file, a run that was trained before, or a shipped name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aligners.base import Aligner
from harness.alignment.recipes import settings_of, shipped, summary_of
from harness.core import registry
from harness.core.config import TrainSettings, merged, parse
from harness.core.errors import BadInputError, UnknownNameError
from harness.records.manifest_file import AlignConfig


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_recipe_is_what_the_method_does_by_default(name: str) -> None:
    method = name.partition("-")[0]
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
