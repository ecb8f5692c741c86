"""Adapters are on all linear layers of the language model, whatever they are called, or where the settings say; ranks can be served."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from aligners.mfpo import MFPO
from aligners.training.adapters import adapted_modules, check_model
from aligners.training.job import AlignJob
from aligners.training.memory.footprint import architecture
from aligners.training.planning.plan import plan
from aligners.training.policy import Policy
from aligners.training.run import train as train
from harness.alignment.resume import check_same
from harness.cli import app
from harness.cli.errors import run
from harness.core.config import LoraSettings, Savings, TrainSettings
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import read_json
from harness.models import export_full, inspect, rank_of, ranks, served_rank, served_ranks
from harness.records.manifest_file import AlignConfig
from tests.tiny import tiny_llava, tiny_photograph
from tests.tiny_families import FAMILIES
from tests.tiny_variants import VARIANTS

USUAL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"]
LINEAR = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"]


@pytest.mark.parametrize("name", {**FAMILIES, **VARIANTS})
def test_all_linear_layers_of_the_language_model_get_one_and_no_other(name: str) -> None:
    model, _ = {**FAMILIES, **VARIANTS}[name]()
    adapted = adapted_modules(model, LoraSettings())
    text = type(model.model.get_submodule("text_model" if "smolvlm" in name else "language_model"))
    [language] = [module for module in model.modules() if type(module) is text]
    inside = {id(one) for one in language.modules() if isinstance(one, torch.nn.Linear)}
    assert {id(model.get_submodule(path)) for path in adapted.paths} == inside and len(adapted.paths) == len(inside)
    kinds = FUSED if "phi3" in name else {*USUAL, *LINEAR} if name == "qwen3.5" else USUAL
    assert set(adapted.kinds) == set(kinds)
    assert adapted.left_out == ({"linear_attn.conv1d": 1} if name == "qwen3.5" else {})
    assert isinstance(adapted.pattern, str)
    assert {one for one, _ in model.named_modules() if re.fullmatch(adapted.pattern, one)} == set(adapted.paths)


@pytest.mark.parametrize("name", ["llava-1.5", "llava-phi3", "qwen3.5"])
def test_the_memory_is_counted_for_the_adapters_that_are_made(name: str, tmp_path: Path) -> None:
    model, processor = {**FAMILIES, **VARIANTS}[name]()
    export_full(model, processor, tmp_path / "base")
    settings = LoraSettings(rank=4)
    counted = architecture(str(tmp_path / "base"), TrainSettings(lora=settings)).trained
    policy = Policy(model, processor, "lora", settings, Savings(), bfloat16=False)
    assert counted == sum(one.numel() for one in policy.model.parameters() if one.requires_grad)


@pytest.mark.claims("train.lora.targets")
@pytest.mark.parametrize(
    ("targets", "kinds", "count"),
    [
        (("q_proj", "v_proj"), ["q_proj", "v_proj"], 8),
        ("down_proj", ["down_proj"], 4),
        (("mlp.up_proj",), ["up_proj"], 4),
        (r"layers\.[01]\.self_attn\..*", ["q_proj", "k_proj", "v_proj", "o_proj"], 8),
        (("layers.3.mlp.up_proj",), ["up_proj"], 1),
    ],
)
def test_the_settings_choose_the_modules(targets: Any, kinds: list[str], count: int) -> None:
    model, processor = FAMILIES["llava-1.5"]()
    settings = LoraSettings(rank=4, targets=targets)
    adapted = adapted_modules(model, settings)
    assert adapted.kinds == kinds and len(adapted.paths) == count
    assert sum(adapted.left_out.values()) == 4 * 7 - count
    assert "none on the language model's" in str(adapted.said()) and f"({28 - count})" not in str(adapted.kinds)
    policy = Policy(model, processor, "lora", settings, Savings(), bfloat16=False)
    trained = {one.partition(".lora_")[0] for one, value in policy.model.named_parameters() if value.requires_grad}
    assert trained == {f"base_model.model.{path}" for path in adapted.paths}


def test_what_no_layer_is_called_is_refused_with_what_there_is() -> None:
    model, _ = FAMILIES["llava-1.5"]()
    for targets in (("q_proj", "qkv_proj"), r"layers\.9\..*", ("vision_tower",), ("proj",)):
        with pytest.raises(BadInputError, match="no linear layer of the language model matches") as caught:
            adapted_modules(model, LoraSettings(targets=targets))
        assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in str(caught.value.remedy)
    with pytest.raises(BadInputError, match="is not a valid regular expression"):
        adapted_modules(model, LoraSettings(targets="layers.(["))


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    tiny_photograph(tmp_path / "p.png", 0)
    row = {"id": "1", "image": "p.png", "prompt": "what is this", "chosen": "a red cat", "rejected": "a blue dog"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    tiny_llava(tmp_path / "base")
    return tmp_path


def align(folder: Path, name: str, *settings: str) -> int:
    command = ["align", "--method", "dpo", "--model", str(folder / "base"), "--data", str(folder / "pairs.jsonl")]
    command += ["--results", str(folder / "results"), "--name", name]
    return run(app, command + [part for one in settings for part in ("--set", one)])


@pytest.mark.slow
def test_a_run_says_on_what_its_adapters_are_and_where_none_is(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert align(pair, "few", "train.lora.targets=[q_proj, v_proj]", "train.lora.rank=4") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("none on the language model's self_attn.k_proj (4)") == 1
    manifest = read_json(pair / "results" / "few" / "manifest.json")
    summary = manifest["summary"]["adapters"]
    assert summary["modules"] == 8 and summary["kinds"] == ["q_proj", "v_proj"]
    assert summary["left_out"]["mlp.down_proj"] == 4
    assert align(pair, "all", "train.lora.rank=4") == 0
    assert "none on the language model's" not in " ".join(capsys.readouterr().err.split())
    assert read_json(pair / "results" / "all" / "manifest.json")["summary"]["adapters"]["left_out"] == {}


def test_targets_and_ranks_are_refused_before_the_data_are_read(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pair / "pairs.jsonl").write_text("not read\n")
    assert align(pair, "wrong", "train.lora.targets=[qkv_proj]") == 2
    assert "no linear layer of the language model matches 'qkv_proj'" in " ".join(capsys.readouterr().err.split())
    assert align(pair, "large", "train.lora.rank=513") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "an adapter of rank 513 could not be served: vLLM accepts ranks up to 512" in said
    with pytest.raises(BadInputError):
        check_model(str(pair / "base"), TrainSettings(lora=LoraSettings(rank=1024)))
    assert check_model(str(pair / "base"), TrainSettings(tuning="full", lora=LoraSettings(rank=1024)))


def test_a_run_of_a_version_without_the_setting_can_be_resumed(pair: Path) -> None:
    assert align(pair, "old", "train.lora.rank=4") == 0
    path = pair / "results" / "old" / "config.json"
    config = json.loads(path.read_text())
    assert config["settings"]["train"]["lora"].pop("targets", "absent") is None
    path.write_text(json.dumps(config))
    check_same(path.parent, AlignConfig.model_validate(config))
    with pytest.raises(BadInputError, match="begun with other settings"):
        config["settings"]["train"]["lora"]["targets"] = ["q_proj"]
        check_same(path.parent, AlignConfig.model_validate(config))


def test_a_family_that_cannot_be_aligned_is_refused_before_images_are_made(pair: Path) -> None:
    other = pair / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "paligemma"}))
    job = AlignJob(str(other), str(pair / "pairs.jsonl"), pair / "run", TrainSettings(), pair / "cache")
    with pytest.raises(BadInputError, match=r"\(family 'paligemma'\) cannot be aligned"):
        train(MFPO(), job)
    with pytest.raises(BadInputError, match=r"\(family 'paligemma'\) cannot be aligned"):
        plan(MFPO(), job)
    assert not (pair / "cache").exists() and not (pair / "run").exists()


def test_the_ranks_are_vllms_own() -> None:
    assert served_ranks() == ranks._AS_OF_0_32, "vLLM's list has changed: look at what it says now"
    assert [served_rank([rank]) for rank in (1, 4, 64, 300, 512)] == [1, 8, 64, 320, 512]
    assert served_rank([8, 200]) == 256
    with pytest.raises(HarnessError, match="up to rank 512, not of rank 600"):
        served_rank([8, 600])


def test_an_adapter_whose_modules_differ_in_rank_is_one(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model, _ = FAMILIES["llava-1.5"]()
    pattern = {"q_proj": 16, "layers.1.mlp.up_proj": 2}
    config = LoraConfig(r=4, target_modules=adapted_modules(model, LoraSettings()).pattern, rank_pattern=pattern)
    get_peft_model(model, config).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(saved | {"base_model_name_or_path": "base"}))
    assert inspect(tmp_path).kind == "adapter" and rank_of(tmp_path) == 16
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(saved | {"base_model_name_or_path": "base", "rank_pattern": {"q_proj": 8}})
    )
    with pytest.raises(BadInputError, match=r"have rank 16 in .*q_proj.*, its configuration says 8"):
        inspect(tmp_path)
