"""Adapters on a base in 4 bits: it trains, what it leaves is an ordinary adapter, and only the language model is rounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aligners.dpo import DPO
from aligners.training import run as training
from aligners.training.job import AlignJob
from aligners.training.memory.footprint import architecture, footprint
from aligners.training.session import Session
from harness.cli import app
from harness.cli.errors import run
from harness.core.config import TrainSettings
from harness.core.errors import HarnessError
from harness.models import inspect, linear_layers, load_model
from tests.aligners.training.test_trainer import SETTINGS

bitsandbytes = pytest.importorskip("bitsandbytes", reason="a base in 4 bits needs the extra qlora")


def job(base: Path, pairs: Path, output: Path, **settings: Any) -> AlignJob:
    output.mkdir(parents=True, exist_ok=True)
    train = TrainSettings.model_validate({**SETTINGS, **settings})
    return AlignJob(str(base), str(pairs), output, train, output.parent / "cache")


def test_only_the_language_model_is_held_in_4_bits(base: Path) -> None:
    whole, rounded = load_model(base, "float32"), load_model(base, "float32", four_bits=True)
    inside, outside = linear_layers(whole)
    modules = dict(rounded.named_modules())
    assert inside and outside
    assert all(isinstance(modules[name], bitsandbytes.nn.Linear4bit) for name in inside)
    assert not any(isinstance(modules[name], bitsandbytes.nn.Linear4bit) for name in outside)
    for name, value in rounded.named_parameters():
        if name.removesuffix(".weight") not in inside:
            torch.testing.assert_close(value, dict(whole.named_parameters())[name], rtol=0, atol=0)
    assert any("vision_tower" in name for name in outside) and any("projector" in name for name in outside)


@pytest.mark.slow
def test_it_trains_and_leaves_an_ordinary_adapter(base: Path, pairs: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    result = training.train(DPO(DPO.Settings(beta=0.5)), job(base, pairs, tmp_path / "run", tuning="qlora", epochs=8))
    log = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "policy and reference differ before the first step"
    assert log[-1]["loss"] < 0.55 and log[-1]["margin"] > 0.3
    assert result.summary.base_held == "4 bits (NF4, double quantisation), computed in float32"
    assert inspect(result.checkpoint).kind == "adapter"
    loaded = PeftModel.from_pretrained(load_model(base, "float32"), result.checkpoint)
    trained = {name: value for name, value in loaded.named_parameters() if "lora_B" in name}
    assert trained and all(value.abs().max() > 0 for value in trained.values())


@pytest.mark.slow
def test_reference_values_of_a_rounded_base_are_its_own(base: Path, pairs: Path, tmp_path: Path) -> None:
    def reference(name: str, tuning: str) -> str:
        return str(training.train(DPO(), job(base, pairs, tmp_path / name, tuning=tuning)).summary.stages[0].reference)

    assert reference("lora", "lora") == "computed"
    assert reference("first", "qlora") == "computed", "the values of unrounded weights were taken"
    assert reference("second", "qlora") == "from disk"


class OneProcess:
    """What the trainer asks of accelerate's state where there is one process."""

    process_index, num_processes, is_main_process = 0, 1, True


def test_what_is_counted_is_what_is_held(base: Path, pairs: Path, tmp_path: Path) -> None:
    from aligners.preferences import read_preferences

    request = job(base, pairs, tmp_path / "run", tuning="qlora")
    data = read_preferences(request.data, limit=None, seed=0, cache=request.cache, on_error="fail")
    model = Session(DPO(), request, data.examples, OneProcess()).policy.plain
    held = 0
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            state = module.weight.quant_state
            held += module.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    counted = architecture(str(base), request.train)
    assert counted.in_4_bits == sum(layer.weight.numel() for layer in linear_layers(load_model(base))[0].values())
    given = {"bfloat16": False, "copy": False, "rows": [64], "responses": 16}
    rounded = footprint(counted, request.train, **given)
    unrounded = request.train.model_copy(update={"tuning": "lora"})
    whole = footprint(architecture(str(base), unrounded), unrounded, **given)
    saved = counted.in_4_bits * 4 - held
    # The matrices here are small: the last block of 256 scales is rarely full.
    assert whole.weights - rounded.weights == pytest.approx(saved, rel=0.01)


@pytest.mark.claims("align --qlora")
def test_flags_that_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["align", "--method", "dpo", "--model", "pocket", "--qlora", "--full"]) == 2
    assert "--qlora and --full exclude each other" in capsys.readouterr().err


def test_without_bitsandbytes_the_extra_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "bitsandbytes" else find_spec(name, *more)
    )
    with pytest.raises(HarnessError, match="'bitsandbytes' is not installed") as caught:
        load_model(base, "float32", four_bits=True)
    assert "[qlora]" in str(caught.value.remedy)
