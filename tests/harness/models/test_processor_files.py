"""Processors of older checkpoints: what their files lack is taken from those beside them, for training and every backend alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import BadInputError
from harness.models import export_full, load_processor, prompt_inputs, servable, template_hash
from tests.tiny import tiny_llava, tiny_llava_next, tiny_photograph
from tests.tiny_families import FAMILIES

KEYS = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    export_full(*tiny_llava_next(), folder / "next")
    return {"llava": tiny_llava(folder / "llava"), "llava_next": folder / "next"}


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def without(source: Path, folder: Path, *keys: str) -> Path:
    shutil.copytree(source, folder)
    edit(folder / "processor_config.json", lambda value: [value.pop(key) for key in keys])
    return folder


def prompt_ids(processor: Any, tmp_path: Path) -> list[list[int]]:
    from PIL import Image

    sizes = ((72, 72), (30, 50))
    pictures = [Image.open(tiny_photograph(tmp_path / f"{size}.png", 1, size)) for size in sizes]
    return [prompt_inputs(processor, "what is this", one)["input_ids"][0].tolist() for one in pictures]


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize("keys", [KEYS, ("num_additional_image_tokens",), ("patch_size",)], ids="+".join)
def test_what_the_configuration_says_is_taken_from_it(
    family: str, keys: tuple[str, ...], exported: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = load_processor(exported[family])
    assert "lack" not in capsys.readouterr().err
    folder = without(exported[family], tmp_path / "old", *keys)
    loaded = load_processor(folder)
    said = " ".join(capsys.readouterr().err.split())
    assert all(f"{key} ({getattr(whole, key)})" in said for key in keys)
    assert prompt_ids(loaded, tmp_path) == prompt_ids(whole, tmp_path)
    assert template_hash(loaded) == template_hash(whole)
    loaded.save_pretrained(tmp_path / "saved")  # as training does: whoever reads it next needs nothing else
    assert (
        json.loads((tmp_path / "saved" / "processor_config.json").read_text()).items()
        >= {key: getattr(whole, key) for key in keys}.items()
    )


def test_vllm_gets_a_folder_that_says_it(exported: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoProcessor

    assert servable(exported["llava"]) == str(exported["llava"])
    folder = without(exported["llava"], tmp_path / "old", *KEYS)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    copy = Path(servable(folder))
    assert copy != folder and (copy / "model.safetensors").resolve() == (folder / "model.safetensors").resolve()
    plain = AutoProcessor.from_pretrained(copy)  # as vLLM does
    assert {key: getattr(plain, key) for key in KEYS} == {
        "patch_size": 12,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_copy_of_a_model_that_moved_has_all_files(exported: dict[str, Path], tmp_path: Path) -> None:
    folder = without(exported["llava"], tmp_path / "old", *KEYS)
    first = Path(servable(folder))
    moved = folder.rename(tmp_path / "new")
    copy = Path(servable(moved))
    weights = copy / "model.safetensors"
    assert copy != first and weights.resolve() == (moved / "model.safetensors").resolve()
    weights.unlink()
    weights.symlink_to("gone")
    assert Path(servable(moved)) == copy and all(path.exists() for path in copy.iterdir())


def test_an_adapters_processor_is_completed_from_its_base(exported: dict[str, Path], tmp_path: Path) -> None:
    folder = without(exported["llava"], tmp_path / "adapter", *KEYS)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(exported["llava"])}))
    assert prompt_ids(load_processor(folder), tmp_path) == prompt_ids(load_processor(exported["llava"]), tmp_path)


def test_what_stands_nowhere_is_refused_with_the_file_and_the_keys(exported: dict[str, Path], tmp_path: Path) -> None:
    folder = without(exported["llava"], tmp_path / "old", *KEYS)

    def another_tower(config: dict[str, Any]) -> None:
        config["vision_config"]["model_type"] = "dinov2"  # transformers knows it, we do not know its extra tokens

    edit(folder / "config.json", another_tower)
    with pytest.raises(
        BadInputError, match=r"does not have num_additional_image_tokens, nor does config\.json"
    ) as caught:
        load_processor(folder)
    assert caught.value.where == str(folder / "processor_config.json")
    assert "add num_additional_image_tokens there" in str(caught.value.remedy)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizers_template_is_the_models_where_the_processor_has_none(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_full(*FAMILIES[family](), tmp_path / "whole")
    whole = load_processor(tmp_path / "whole")
    folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / "moved"))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    edit(folder / "tokenizer_config.json", lambda value: value.update(chat_template=template))
    capsys.readouterr()
    found = load_processor(folder)
    assert "the chat template from the tokenizer" in " ".join(capsys.readouterr().err.split())
    assert found.chat_template == whole.chat_template and template_hash(found) == template_hash(whole)


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ raise_exception('no') }}", "{{ messages[9]['content'].x.y }}", "{{ 1/0 }}"]
)
def test_a_template_that_cannot_be_used(template: str, exported: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported["llava"], tmp_path / "m"))
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(BadInputError, match="the chat template cannot be used"):
        load_processor(folder)
