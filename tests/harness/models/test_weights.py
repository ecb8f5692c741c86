"""No weight is made up: what a folder's files hold is compared with the model by full names and shapes, before and after loading."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.core.errors import BadInputError
from harness.models import inspect, load_model, load_processor, prompt_inputs, servable
from harness.models.weights import safetensors_shapes
from harness.serving.server import command
from tests.tiny import tiny_llava, tiny_photograph
from tests.tiny_families import FAMILIES

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("exported") / "base")


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


def renamed(folder: Path, rename: Callable[[str], str | None]) -> Path:
    """The folder, its tensors under other names; None leaves a tensor out."""
    path = folder / "model.safetensors"
    weights = {new: value for name, value in load_file(path).items() if (new := rename(name)) is not None}
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def sharded(folder: Path) -> list[str]:
    """The folder's weights in two shards, without an index."""
    weights = load_file(folder / "model.safetensors")
    names, half = sorted(weights), len(weights) // 2
    files = []
    for number, part in enumerate((names[:half], names[half:]), 1):
        files.append(f"model-{number:05}-of-00002.safetensors")
        save_file({name: weights[name] for name in part}, folder / files[-1], metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: files[place >= half] for place, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return files


def logits(folder: Path, tmp_path: Path) -> torch.Tensor:
    from PIL import Image

    picture = Image.open(tiny_photograph(tmp_path / "p.png", 1))
    inputs = prompt_inputs(load_processor(folder), "what is this", picture)
    with torch.no_grad():
        return load_model(folder, "float32", "cpu")(**inputs).logits  # type: ignore[no-any-return]


WRAPPERS: dict[str, Callable[[str], str]] = {
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "DDP": lambda name: f"module.{name}",
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}",
    "DDP of a compiled model": lambda name: f"module._orig_mod.{name}",
    "FSDP by layer": lambda name: re.sub(r"(layers\.\d+)\.", r"\1._fsdp_wrapped_module.", name),
    "compiled and checkpointed layers": lambda name: re.sub(
        r"(layers\.\d+)\.", r"\1._orig_mod._checkpoint_wrapped_module.", name
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_names_of_training_wrappers_are_taken_off_and_that_is_said(
    wrapper: str, exported: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = logits(exported, tmp_path)
    assert "training wrapper" not in capsys.readouterr().err
    renamed(folder, WRAPPERS[wrapper])
    assert inspect(folder).architecture == "LlavaForConditionalGeneration"
    assert torch.equal(logits(folder, tmp_path), expected)
    assert "training wrapper" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("shards", [False, True])
def test_vllm_is_given_a_copy_with_the_models_own_names(
    shards: bool, exported: Path, folder: Path, tmp_path: Path
) -> None:
    assert servable(exported) == str(exported)
    renamed(folder, WRAPPERS["FSDP"])
    if shards:
        sharded(folder)
        (folder / "model.safetensors").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    copy = Path(servable(folder))
    assert copy != folder and servable(folder) == str(copy)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "the checkpoint itself was changed"
    found = {name: value for path in copy.glob("*.safetensors") for name, value in load_file(path).items()}
    own = load_file(exported / "model.safetensors")
    assert found.keys() == own.keys() and all(torch.equal(found[name], own[name]) for name in own)
    assert torch.equal(logits(copy, tmp_path), logits(exported, tmp_path))
    line, _ = command(folder, "127.0.0.1", 8000)
    assert line[line.index("--model") + 1] == str(copy)


WRONG: dict[str, tuple[Callable[[str], str | None], str]] = {
    "another prefix": (
        lambda name: f"foo.{name}",
        r"weights are not in the checkpoint and would be random, first 'lm_head.weight'.*is 'foo\.language_model\.model\.embed",
    ),
    "unmerged adapters' names": (
        lambda name: f"base_model.model.{name}",
        r"does not belong to the model is 'base_model\.model",
    ),
    # The tails of both names are those of the model's: what was compared up to now.
    "the tower's layers under the language model's name": (
        lambda name: name.replace("vision_tower.vision_model.encoder", "language_model.model"),
        r"do not match config\.json.* does not belong to the model is 'model\.language_model\.layers\.0\.layer_norm1\.bias'",
    ),
    "one tensor left out": (
        lambda name: None if name.endswith("layers.2.mlp.up_proj.weight") else name,
        r"^1 of the model's weights are not .* first 'model\.language_model\.layers\.2\.mlp\.up_proj\.weight' ",
    ),
    "a prefix on some": (
        lambda name: f"module.{name}" if "layers.0" in name else f"foo.{name}",
        r"would be random",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_the_models_is_refused_with_the_first_name(case: str, folder: Path) -> None:
    rename, words = WRONG[case]
    renamed(folder, rename)
    for attempt in (inspect, load_model, servable, lambda one: command(one, "127.0.0.1", 8000)):
        with pytest.raises(BadInputError, match=words) as caught:
            attempt(folder)  # type: ignore[operator]
        assert "transformers" not in str(caught.value.remedy)


def test_layers_that_the_configuration_leaves_out_are_not_dropped(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    for attempt in (inspect, load_model):
        with pytest.raises(BadInputError, match=r"9 tensors .* do not belong to the model .*layers\.3"):
            attempt(folder)


def test_the_report_after_loading_is_looked_at_too(
    exported: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub's files are only seen once they are loaded; here the look beforehand is left out."""
    from harness.models import processors

    monkeypatch.setattr(processors, "loadable", str)
    renamed(folder, lambda name: f"_orig_mod.{name}")
    with pytest.raises(BadInputError, match=r"would be random, first .* is '_orig_mod\."):
        load_model(folder)
    assert load_model(exported) is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_own_files_fit(family: str, tmp_path: Path) -> None:
    """Heads that are tied, buffers, and names that transformers changes as it loads are nobody's fault."""
    from harness.models import export_full

    export_full(*FAMILIES[family](), tmp_path / family)
    inspect(tmp_path / family)
    load_model(tmp_path / family)


def test_two_sets_of_weights_in_one_folder(folder: Path) -> None:
    files = sharded(folder)
    with pytest.raises(BadInputError, match=r"two sets of weights: model\.safetensors, and 2 shards that .*index"):
        inspect(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(BadInputError, match=r"two sets of weights: .* 2 shards without"):
        inspect(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInputError, match=r"model\.safetensors\.index\.json is missing, next to 2 of 2 shards"):
        inspect(folder)
    sizes = [(folder / name).stat().st_size for name in files]
    assert all(sizes)


def test_an_index_that_names_the_lone_file_or_shards_agrees(folder: Path) -> None:
    weights = {
        "metadata": {},
        "weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors"),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
    inspect(folder)
    sharded(folder)
    (folder / "model.safetensors").unlink()
    inspect(folder)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 14\n"


@pytest.mark.parametrize(
    ("files", "config", "words"),
    [
        ({"model.safetensors": POINTER}, {}, "Git LFS pointer"),
        ({"model.safetensors": None, "pytorch_model.bin": b"x"}, {}, "Python pickles"),
        (
            {"model.safetensors": None, "pytorch_model.bin": b"x", "mm_projector.bin": b"x"},
            {"model_type": "llava_llama"},
            "LLaVA's own layout",
        ),
        ({}, {"model_type": "llava_llama"}, "LLaVA's own layout"),
        ({"model.safetensors": None}, {}, "no weights in safetensors"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "../../x.safetensors"}}'},
            {},
            "outside its folder",
        ),
        ({"model.safetensors.index.json": b'{"weight_map": {}}'}, {}, "no weight_map"),
    ],
)
def test_folders_of_other_kinds_say_what_they_are(
    folder: Path, files: dict[str, bytes | None], config: dict[str, Any], words: str
) -> None:
    for name, content in files.items():
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(BadInputError, match=words) as caught:
        inspect(folder)
    assert caught.value.remedy


def header(text: bytes, rest: int = 0) -> bytes:
    return len(text).to_bytes(8, "little") + text + bytes(rest)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        header(b"[]"),
        header(b"{}") + b"more",
        header(b'{"a": 1}'),
        header(b'{"a": {"shape": ["x"], "data_offsets": [0, 4]}}', 4),
        header(b'{"a": {"shape": [1], "data_offsets": [0]}}', 4),
        header(b'{"a": {"shape": [1], "data_offsets": [0, 1e400]}}', 4),
        header(b'{"a": {"shape": [1], "data_offsets": [0, ' + b"9" * 5000 + b"]}}", 4),
        header(b"[" * 100_000),
        (2**40).to_bytes(8, "little") + b"{}",
    ],
    ids=range(11),
)
def test_headers_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        safetensors_shapes(tmp_path / "a.safetensors")
    assert len(str(caught.value)) < 500


def test_one_module_alone_reads_pretrained_files() -> None:
    """Elsewhere a call could forget that code is not to be run, or not look at what was loaded."""
    called = {"from_pretrained", "from_config", "cached_file", "load_adapter"}
    allowed = {"harness/models/pretrained.py": called, "harness/models/completion.py": {"cached_file"}}
    for top in ("harness", "aligners", "benchmarks"):
        for path in (ROOT / top).rglob("*.py"):
            names = {
                node.attr if isinstance(node, ast.Attribute) else node.id
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Attribute | ast.Name)
            }
            found = names & called - allowed.get(path.relative_to(ROOT).as_posix(), set())
            assert not found, (
                f"{path.relative_to(ROOT)} calls {found}: harness/models/pretrained.py is the place for it"
            )


def test_detectors_are_loaded_whole_or_not_at_all(tmp_path: Path) -> None:
    from aligners.rejected_images.detectors import GroundingDino, Owlv2, Sam
    from aligners.rejected_images.settings import ImagePreferenceSettings
    from tests import tiny_detectors

    made = {
        GroundingDino: ("detector", tiny_detectors.tiny_grounding_dino(tmp_path / "dino")),
        Owlv2: ("detector", tiny_detectors.tiny_owlv2(tmp_path / "owl")),
        Sam: ("segmenter", tiny_detectors.tiny_sam(tmp_path / "sam")),
    }
    for kind, (setting, folder) in made.items():
        settings = ImagePreferenceSettings(**{setting: str(folder)})
        kind(settings)
        first = min(load_file(folder / "model.safetensors"))
        renamed(folder, lambda name, first=first: None if name == first else name)  # type: ignore[misc]
        with pytest.raises(
            BadInputError, match=r"\d of the model's weights are not in the checkpoint and would be random"
        ):
            kind(settings)


def test_attention_of_a_loaded_model_is_not_planned_anew_for_every_shape(folder: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    load_model(folder)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
