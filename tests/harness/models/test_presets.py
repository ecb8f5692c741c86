"""`official:MODEL` processes images and conversations as LLaVA-1.5's authors do, for training and every backend."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.checkpoints.ask import find_asked
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import read_json, write_json
from harness.models import (
    AnswerEncoder,
    aliases,
    base_location,
    fingerprint,
    load_model,
    load_processor,
    prompt_inputs,
    prompt_text,
    recorded,
    resolve,
    template_hash_of,
)
from harness.models.presets import SYSTEM
from harness.remote import hub
from harness.runs.folders import open_run
from harness.runs.targets import target_of
from harness.serving import server
from tests.commands import json_here
from tests.tiny import tiny_llava, tiny_pairs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("preset") / "base")


@pytest.fixture
def made(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return Path(resolve(f"official:{base}").locate())


def expand2square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """LLaVA's llava/mm_utils.py."""
    width, height = image.size
    side = max(width, height)
    result = Image.new(image.mode, (side, side), colour)
    result.paste(image, ((side - width) // 2, (side - height) // 2))
    return result


@pytest.mark.parametrize("size", [(150, 40), (40, 150), (72, 72), (30, 31)])
def test_pixels_are_those_of_the_authors_code(made: Path, base: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    image = coarse.resize(size, Image.Resampling.BICUBIC)
    processor = load_processor(made)
    mean, std = (np.array(getattr(processor.image_processor, name)) for name in ("image_mean", "image_std"))
    square = expand2square(image, tuple(int(channel * 255) for channel in mean)).resize((72, 72), Image.BICUBIC)
    expected = (np.asarray(square) / 255 - mean) / std
    pixels = prompt_inputs(processor, "what is this", image)["pixel_values"][0].permute(1, 2, 0).numpy()
    levels = np.abs(pixels - expected) * std * 255
    assert levels.mean() < 0.6 and levels.max() < 6  # Pillow and torchvision round differently
    cropped = prompt_inputs(load_processor(base), "what is this", image)["pixel_values"][0].permute(1, 2, 0).numpy()
    assert (np.abs(cropped - expected) * std * 255).mean() > 10 or max(size) < 1.1 * min(size)


def test_the_conversation_is_that_of_the_authors_code(made: Path) -> None:
    processor = load_processor(made)
    question = f"{SYSTEM} USER: <image>\nWhat's this? ASSISTANT:"
    assert prompt_text(processor, "What's this?") == question
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What's this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
    ]
    assert processor.apply_chat_template(turns, tokenize=False) == f"{question} A dog.</s>"
    encoder = AnswerEncoder(processor)
    assert encoder.separator == " " and encoder.end == processor.tokenizer.eos_token_id


def test_it_is_another_checkpoint_with_the_same_weights(made: Path, base: Path) -> None:
    assert fingerprint(made) != fingerprint(base) and template_hash_of(made) != template_hash_of(base)
    ours, theirs = load_model(made).state_dict(), load_model(base).state_dict()
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    assert resolve(f"official:{base}").locate() == str(made)
    weights = made / "model.safetensors"
    weights.unlink()
    weights.symlink_to("gone")
    before = fingerprint(base)
    assert Path(resolve(f"official:{base}").locate()) == made and weights.is_file() and fingerprint(base) == before


def test_other_models_are_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    assert {name for name in aliases() if name.startswith("official:")} == {
        "official:llava-1.5-7b", "official:llava-1.5-13b"
    }  # fmt: skip
    with pytest.raises(BadInputError, match="an embedded world's model"):
        resolve("official:pocket")
    write_json(tmp_path / "config.json", read_json(base / "config.json") | {"model_type": "llava_next"})
    with pytest.raises(BadInputError, match="a model of the type 'llava_next'"):
        resolve(f"official:{tmp_path}").locate()


@pytest.fixture
def on_hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model's name on the hub, whose cache on this machine has it; the hub is not asked."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--team--tiny"
    shutil.copytree(base, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    return "team/tiny"


def test_a_preset_that_the_cache_lost_is_made_again(
    on_hub: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, label = tmp_path / "adapter", f"official:{on_hub}"
    adapter.mkdir()
    write_json(adapter / "manifest.json", {"base": {"label": label}})
    made = Path(resolve(label).locate())
    weights = fingerprint(made)
    assert base_location(adapter, str(made)) == str(made)
    shutil.rmtree(made)
    assert base_location(adapter, str(made)) == str(made) and fingerprint(made) == weights
    shutil.rmtree(made)
    assert recorded(label, str(made)).locate() == str(made) and fingerprint(made) == weights
    (made / "model.safetensors").unlink()
    (made / "model.safetensors").symlink_to("gone")
    assert base_location(adapter, str(made), label) == str(made) and fingerprint(made) == weights
    # On another machine, the cache is elsewhere.
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "other"))
    shutil.rmtree(made)
    there = Path(base_location(adapter, str(made)))
    assert there.is_relative_to(tmp_path / "other") and fingerprint(there) == weights

    shutil.rmtree(tmp_path / "hub")
    hub._look.cache_clear()
    with pytest.raises(
        HarnessError, match=r"official:team/tiny is not in the cache any more, and cannot be made again"
    ):
        base_location(adapter, str(made))
    # A folder's label is the last part of its path, which may be anywhere.
    monkeypatch.chdir(base.parent)
    with pytest.raises(BadInputError, match="does not say where its weights are") as caught:
        base_location(adapter, str(made), f"official:{base.name}")
    assert "harness verify official:FOLDER" in str(caught.value.remedy)


@pytest.mark.slow
def test_a_run_on_a_preset_outlives_the_cache(on_hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_pairs(tmp_path / "pairs", 4)
    quick = ("batch_size=4", "micro_batch_size=4", "max_length=256", "lora.rank=2")
    sets = [part for setting in quick for part in ("--set", f"train.{setting}")]
    align = ("align", "--method", "dpo", "--model", f"official:{on_hub}", "--data", "pairs/rlaif-v.parquet")
    run = json_here(*align, "--name", "one", *sets)
    presets = tmp_path / "cache" / "presets"
    trained = open_run(tmp_path / "results" / "one")
    shutil.rmtree(presets)
    assert target_of(trained).fingerprint and Path(run["base"]["location"]).is_dir()  # for eval and its like
    for checkpoint in ("one", "results/one/checkpoint"):
        shutil.rmtree(presets)
        assert find_asked(checkpoint, tmp_path / "results").base == run["base"]["location"]
    shutil.rmtree(presets)
    line, _ = server.command(trained.checkpoint, "127.0.0.1", 8000)
    assert Path(line[line.index("--model") + 1]).is_dir()
    shutil.rmtree(presets)
    assert json_here("export", "one", "-o", "merged")["checkpoint"]["kind"] == "full"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_training_and_serving_read_the_same(
    base: Path, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_pairs(tmp_path / "pairs", 4)
    quick = ("batch_size=4", "micro_batch_size=4", "max_length=256", "lora.rank=2", "learning_rate=1e-2")
    sets = [part for setting in quick for part in ("--set", f"train.{setting}")]
    run = json_here(
        *("align", "--method", "dpo", "--model", f"official:{base}", "--data", "pairs/rlaif-v.parquet"),
        *("--name", "one", *sets),
    )
    assert run["config"]["model"] == "official:base" and run["base"]["fingerprint"] != fingerprint(base)
    assert SYSTEM in (tmp_path / "results/one/checkpoint/chat_template.jinja").read_text()
    verified = json_here("verify", "one", "--probes", "3", "--backend", backend)
    assert verified["same"] is True, verified


def test_the_authors_spelling_of_a_name_is_taken_too() -> None:
    assert (resolve("llava-v1.5-7b"), resolve("llava-1.6-13b")) == (resolve("llava-1.5-7b"), resolve("llava-v1.6-13b"))
    assert resolve("official:llava-v1.5-7b").label == "official:llava-1.5-7b"
