"""An adapter covers what its configuration says, lies on the base that it names, and is loaded whole, in every backend and tool."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.checkpoints.ask import AskedCheckpoint, find_asked
from harness.checkpoints.verify import TrainedSide
from harness.core.errors import BadInputError, HarnessError
from harness.models import check_base, export_adapter, inspect, load_model, load_processor, with_adapters
from harness.serving.server import command
from harness.serving.transformers import TransformersBackend
from harness.serving.vllm import VllmBackend
from tests.tiny import tiny_llava


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("base") / "base")


def adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter with random weights on the base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    options = {
        "r": 8,
        "lora_alpha": 64,
        "target_modules": r".*language_model.*\.(q_proj|v_proj)",
        "init_lora_weights": False,
    }
    model = get_peft_model(load_model(base, device="cpu"), LoraConfig(**options | settings))
    export_adapter(model, load_processor(base), folder, str(base))
    return folder


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    return folder


def configure(folder: Path, **values: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


PARTIAL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "the last layer": (
        lambda folder: edit(folder, lambda all_: {k: v for k, v in all_.items() if ".layers.3." not in k}),
        r"^4 tensors that .* first 'base_model\.model\.model\.language_model\.layers\.3\.self_attn\.q_proj\.lora_A\.weight'",
    ),
    "a half": (
        lambda folder: edit(folder, lambda all_: {k: v for k, v in all_.items() if k != max(all_)}),
        r"^1 tensors that .* first '.*lora_B\.weight'",
    ),
    "more modules in the configuration": (
        lambda folder: configure(folder, target_modules=r".*language_model.*\.(q_proj|v_proj|o_proj)"),
        r"^8 tensors that .* first '.*o_proj\.lora_A",
    ),
    "fewer modules in the configuration": (
        lambda folder: configure(folder, target_modules=r".*language_model.*\.q_proj"),
        r"^8 tensors of the adapter do not fit .* first '.*v_proj\.lora_A",
    ),
    "another prefix": (
        lambda folder: edit(folder, lambda all_: {f"module.{k}": v for k, v in all_.items()}),
        r"^16 tensors that ",
    ),
    "another model's widths": (
        lambda folder: edit(
            folder, lambda all_: {k: torch.ones(8, 64) if "lora_A" in k else v for k, v in all_.items()}
        ),
        r"does not fit its base model .* size mismatch",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", PARTIAL)
def test_an_adapter_that_is_not_what_its_configuration_says(case: str, base: Path, tmp_path: Path) -> None:
    change, words = PARTIAL[case]
    folder = change(adapter(base, tmp_path / "a"))
    attempts: dict[str, Callable[[], object]] = {
        "found": lambda: find_asked(str(folder), tmp_path),
        "served": lambda: command(folder, "127.0.0.1", 8000),
        "vllm": lambda: VllmBackend(base, {"a": folder}).start(),
        "checked": lambda: check_base(folder, str(base)),
    }
    for attempt in attempts.values():  # without a start of anything
        with pytest.raises(BadInputError, match=words):
            attempt()
    loaded = words.replace("does not fit its base model ", "cannot be loaded: ")
    for attempt in (
        lambda: TransformersBackend(base, {"a": folder}).start(),
        lambda: TrainedSide([AskedCheckpoint("a", str(base), folder)], "float32"),
        lambda: with_adapters(load_model(base, device="cpu"), {"a": folder}),
    ):
        with pytest.raises(BadInputError, match=loaded):
            attempt()


def test_a_second_adapter_is_looked_at_as_the_first(base: Path, tmp_path: Path) -> None:
    whole, partial = adapter(base, tmp_path / "whole"), PARTIAL["a half"][0](adapter(base, tmp_path / "partial"))
    with pytest.raises(BadInputError, match=r"1 tensors that") as caught:
        TransformersBackend(base, {"whole": whole, "partial": partial}).start()
    assert caught.value.where == str(partial)


def test_whole_adapters_of_many_kinds_pass(base: Path, tmp_path: Path) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "patterns": {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 8}},
        "dora": {"use_dora": True},
        "saved": {"modules_to_save": ["lm_head"]},
        "list": {"target_modules": ["gate_proj", "multi_modal_projector.linear_1"]},
    }
    for name, settings in kinds.items():
        folder = adapter(base, tmp_path / name, **settings)
        assert inspect(folder).kind == "adapter"
        check_base(folder, str(base))
        with_adapters(load_model(base, device="cpu"), {"a": folder})


def test_patterns_of_ranks_are_served(base: Path, tmp_path: Path) -> None:
    patterned = adapter(base, tmp_path / "p", r=4, rank_pattern={"q_proj": 24})
    line, _ = command(patterned, "127.0.0.1", 8000)
    assert line[line.index("--max-lora-rank") + 1] == "32"


def test_a_base_that_is_gone_is_named_with_the_place_to_write_another(base: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(base, tmp_path / "before"))
    folder = adapter(moved, tmp_path / "a")
    moved.rename(tmp_path / "after")
    for attempt in (lambda: find_asked(str(folder), tmp_path), lambda: command(folder, "127.0.0.1", 8000)):
        with pytest.raises(BadInputError, match=r"base model is not at .*before") as caught:
            attempt()
        assert caught.value.where == f"base_model_name_or_path in {folder / 'adapter_config.json'}"
    configure(folder, base_model_name_or_path=str(tmp_path / "after"))
    assert find_asked(str(folder), tmp_path).base == str(tmp_path / "after")


@pytest.mark.parametrize(
    "config",
    [
        [],
        "text",
        None,
        {"r": [8]},
        {"r": 8},
        {"r": 8, "base_model_name_or_path": 5},
        {"r": "8", "base_model_name_or_path": "x"},
        {"r": 8, "rank_pattern": 3, "base_model_name_or_path": "/x"},
        {"peft_type": "NOBODYS", "r": 8},
        {"peft_type": ["LORA"], "r": 8, "target_modules": 5},
        {"target_modules": "(", "r": 8},
        {"lora_alpha": "x", "r": 8},
    ],
    ids=str,
)
def test_configurations_that_are_none(config: Any, base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "a")
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps({"base_model_name_or_path": str(base), **config} if isinstance(config, dict) else config)
    )
    if isinstance(config, dict) and "r" in config and len(config) == 1 and config["r"] == 8:
        path.write_text(json.dumps(config))
    with pytest.raises(BadInputError) as caught:
        find_asked(str(folder), tmp_path)
    assert len(str(caught.value)) < 1000 and caught.value.where


def test_manifests_beside_adapters_that_are_none(base: Path, tmp_path: Path) -> None:
    folder = adapter(base, tmp_path / "a")
    for manifest in ([], {}, {"base": 3}, {"base": {"fingerprint": 5}}):
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(HarnessError):
            find_asked(str(folder), tmp_path)


@pytest.mark.slow
def test_a_run_whose_base_has_moved_is_evaluated_once_its_adapter_says_where(tmp_path: Path) -> None:
    from harness.alignment.align import AlignRequest, run_align
    from harness.runs.folders import open_run
    from harness.runs.targets import base_of, target_of
    from tests.tiny import tiny_pairs

    settings = {"train": {"epochs": 1, "batch_size": 8, "micro_batch_size": 8, "max_length": 256}}
    before = tiny_llava(tmp_path / "before")
    data = str(tiny_pairs(tmp_path / "pairs", 8))
    run = run_align(AlignRequest("dpo", str(before), tmp_path / "results", data=data, name="one", settings=settings))
    before.rename(tmp_path / "after")
    with pytest.raises(BadInputError, match="base model is not at"):
        target_of(open_run(run.path))
    configure(run.checkpoint, base_model_name_or_path=str(tmp_path / "after"))
    moved = open_run(run.path)
    assert target_of(moved).base == str(tmp_path / "after")
    assert base_of(moved, tmp_path / "results").base == str(tmp_path / "after")
    tiny_llava(tmp_path / "other", seed=5)
    configure(run.checkpoint, base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(BadInputError, match="trained on other base weights"):
        target_of(moved)
