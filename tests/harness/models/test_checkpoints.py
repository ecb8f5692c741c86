"""A checkpoint folder is looked at before anything starts on it: what is wrong is said with the tensor's name."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from harness.core.errors import BadInputError
from harness.models import computation_files, export_full, fingerprint, inspect, load_model, load_processor
from tests.tiny import tiny_llava


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "checkpoint"))


def test_a_whole_checkpoint_is_recognised_and_loads(folder: Path) -> None:
    from transformers import AutoModelForImageTextToText

    info = inspect(folder)
    assert (info.kind, info.architecture, info.base) == ("full", "LlavaForConditionalGeneration", None)
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert sum(value.numel() for value in model.parameters()) > 1_000_000


def test_names_in_the_file_are_those_that_vllm_loads(folder: Path) -> None:
    """The hub's own names (DEPENDENCIES, trap 2): vLLM maps these and no others."""
    with (folder / "model.safetensors").open("rb") as stream:
        names = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0])).keys() - {"__metadata__"}
    assert {name.split(".")[0] for name in names} <= {
        "vision_tower",
        "multi_modal_projector",
        "language_model",
        "lm_head",
    }


def test_the_fingerprint_follows_the_weights(folder: Path) -> None:
    before = fingerprint(folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert fingerprint(folder) != before


@pytest.mark.parametrize(
    ("file", "key", "value", "counts"),
    [
        ("config.json", "vision_feature_layer", -1, True),
        ("config.json", "transformers_version", "9.9", False),
        ("config.json", "_name_or_path", "elsewhere", False),
        ("generation_config.json", "eos_token_id", 7, True),
        ("adapter_config.json", "lora_alpha", 64, True),
        ("adapter_config.json", "base_model_name_or_path", "moved", False),
    ],
)
def test_what_weights_are_computed_with(
    file: str, key: str, value: object, counts: bool, folder: Path, tmp_path: Path
) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(folder, base)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"r": 8, "lora_alpha": 16, "base_model_name_or_path": "base"})
    )
    before = computation_files(base, adapter)
    assert set(before) == {"config.json", "generation_config.json", "adapter_config.json"}
    path = (adapter if file.startswith("adapter") else base) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    after = computation_files(base, adapter)
    assert {name for name in before if before[name] != after[name]} == ({file} if counts else set())
    assert computation_files("someone/a-model", None) == {}
    assert computation_files("someone/a-model", adapter) == {
        name: value for name, value in after.items() if name == "adapter_config.json"
    }


def test_a_truncated_weight_file(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadInputError, match="header says"):
        inspect(folder)


def test_weights_of_another_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 100
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        BadInputError, match=r"tensors do not match config.json.*expected \[128, 100\], found \[128, 352\]"
    ):
        inspect(folder)


def test_a_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInputError, match=r"model-00002-of-00002.safetensors"):
        inspect(folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_folder(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(BadInputError):
        inspect(folder)


def test_an_adapter_whose_rank_disagrees(folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(
        {"x.lora_A.weight": torch.zeros(4, 8), "x.lora_B.weight": torch.zeros(8, 4)},
        adapter / "adapter_model.safetensors",
    )
    config = {"r": 8, "peft_type": "LORA", "base_model_name_or_path": str(folder)}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError, match=r"rank 4 in x\.lora_A\.weight, its configuration says 8"):
        inspect(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 4}))
    assert inspect(adapter).kind == "adapter"


def test_a_generation_configuration_that_transformers_would_not_write_is_kept(folder: Path, tmp_path: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 0.9, "top_p": 0.6}))
    model = load_model(folder, device="cpu")
    with pytest.raises(ValueError, match="do_sample"):
        model.save_pretrained(tmp_path / "by-transformers")
    export_full(model, load_processor(folder), tmp_path / "again")
    assert json.loads((tmp_path / "again" / path.name).read_text()) == json.loads(path.read_text())
    again = load_model(tmp_path / "again", device="cpu")
    assert again.generation_config.temperature == model.generation_config.temperature == 0.9
