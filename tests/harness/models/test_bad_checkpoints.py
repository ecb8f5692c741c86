"""What cannot be evaluated is said before an engine starts; several adapters on one base answer as their merged weights do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.checkpoints.ask import AskedCheckpoint, find_asked
from harness.checkpoints.verify import recorded_weights
from harness.core.errors import BadInputError, HarnessError
from harness.core.types import ImageRef
from harness.evaluation.evaluate import run_eval
from harness.evaluation.request import EvalRequest
from harness.models import check_base, export_adapter, export_full, fingerprint, load_model, load_processor, resolve
from harness.runs.folders import open_run
from harness.runs.targets import target_of_model, target_of_run
from harness.serving.base import Request, Sampling
from harness.serving.server import command
from harness.serving.transformers import TransformersBackend
from tests.harness.serving.fake_vision import small_pope
from tests.tiny import tiny_llava, tiny_photograph


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("exported") / "base")


@pytest.fixture
def base(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "base"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small_pope(tmp_path) / "data"


def evaluate(base: Path, data: Path, tmp_path: Path, **more: Any) -> list[dict[str, Any]]:
    target = target_of_model(resolve(str(base)), tmp_path / "results")
    return run_eval(EvalRequest([target], ["pope"], str(data), TransformersBackend, **more))


def adapter(base: Path, folder: Path, seed: int, idle: bool = False) -> Path:
    """A LoRA adapter with random weights, or one whose second halves are 0."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=8, lora_alpha=64, target_modules=r".*language_model.*\.(q_proj|v_proj|o_proj)", init_lora_weights=idle
    )
    model = get_peft_model(load_model(base), config)
    export_adapter(model, load_processor(base), folder, str(base))
    return folder


def run_of(base: Path, folder: Path, name: str | None = None) -> Path:
    """A run as `harness align` leaves it; `name`: of the base on the hub, which the training loaded."""
    location = name or str(base)
    manifest = {
        "kind": "align",
        "name": folder.name,
        "config": {"model": str(base), "method": "dpo", "data": "d", "settings": {}},
        "base": {"label": location, "location": location, "fingerprint": fingerprint(location)},
    }
    adapter(base, folder / "checkpoint", 0)
    for place in (folder, folder / "checkpoint"):
        (place / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_checkpoint_without_processor_or_template(base: Path, data: Path, tmp_path: Path) -> None:
    (base / "chat_template.jinja").unlink()
    with pytest.raises(BadInputError, match="no chat template") as caught:
        evaluate(base, data, tmp_path)
    assert "chat_template.jinja" in str(caught.value.remedy)
    with pytest.raises(BadInputError, match="no chat template"):
        command(base, "127.0.0.1", 8000)
    for path in base.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    with pytest.raises(BadInputError, match="no processor could be loaded") as caught:
        evaluate(base, data, tmp_path)
    assert "processor files" in str(caught.value.remedy) and str(caught.value).count(str(base)) <= 2


def test_a_hub_that_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HarnessError, match="model-that-nobody-has is not in the hub's cache") as caught:
        load_processor("somebody/model-that-nobody-has")
    assert "HF_HUB_OFFLINE" in str(caught.value.remedy) and "copy" not in str(caught.value.remedy)


def test_a_text_only_model(tmp_path: Path, data: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "text")
    with pytest.raises(BadInputError, match="does not describe an image-and-text model"):
        evaluate(tmp_path / "text", data, tmp_path)


def test_a_context_too_short_for_image_and_question(base: Path, data: Path, tmp_path: Path) -> None:
    path = data / "pope" / "coco_pope_random.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["text"] = "Is there a dog? " * 400
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        BadInputError, match=r"too short: 1024 tokens, of which the image takes 36 and the question \d{4}"
    ):
        evaluate(base, data, tmp_path)


def test_missing_images_are_named_with_the_command_that_gets_them(base: Path, data: Path, tmp_path: Path) -> None:
    for number in (2, 5):
        (data / "pope" / "images" / f"{number}.png").unlink()
    with pytest.raises(BadInputError, match=r"2 of 10 images of pope are missing: 2\.png, 5\.png ") as caught:
        evaluate(base, data, tmp_path)
    assert f"harness data get pope --root {data}" in str(caught.value.remedy)
    assert caught.value.where == str(data / "pope" / "images")


def test_an_adapter_of_another_base_is_refused_by_fingerprint(base: Path, tmp_path: Path) -> None:
    run = run_of(base, tmp_path / "results" / "mine")
    assert target_of_run(open_run(run)).adapter is not None
    assert command(run / "checkpoint", "127.0.0.1", 8000)[1] == "mine"
    tiny_llava(base, seed=1)
    for attempt in (
        lambda: target_of_run(open_run(run)),
        lambda: find_asked("mine", tmp_path / "results"),
        lambda: command(run / "checkpoint", "127.0.0.1", 8000),
    ):
        with pytest.raises(BadInputError, match="trained on other base weights"):
            attempt()
    with pytest.raises(BadInputError, match="this is an adapter, not a base model"):
        target_of_model(resolve(str(run / "checkpoint")), tmp_path / "results")


def test_a_folder_replaces_a_base_from_the_hub_with_a_warning(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its fingerprint is made of its name, so that no folder has it."""
    run = run_of(base, tmp_path / "results" / "mine", "somebody/a-model")
    target = target_of_run(open_run(run))
    assert target.base == str(base) and recorded_weights(AskedCheckpoint("mine", str(base), target.adapter)) == []
    assert caplog.text.count("trained on somebody/a-model from the hub, and its base is now") == 1
    with pytest.raises(BadInputError, match="trained on other base weights"):
        check_base(run / "checkpoint", "somebody/another-model")
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] -= 1
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError, match="do not fit its base model"):
        target_of_run(open_run(run))


def test_answers_of_another_version_on_the_hub_are_not_continued(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--somebody--a-model"
    (repository / "refs").mkdir(parents=True)

    def publish(commit: str) -> None:
        shutil.copytree(base, repository / "snapshots" / commit)
        (repository / "refs" / "main").write_text(commit)

    def ask(limit: int) -> list[dict[str, Any]]:
        target = target_of_model(resolve("somebody/a-model"), tmp_path / "results")
        return run_eval(EvalRequest([target], ["pope"], str(data), TransformersBackend, limit=limit))

    publish("1" * 40)
    [record] = ask(12)
    [path] = (tmp_path / "results").glob("*/evals/*/serving.json")
    assert list(json.loads(path.read_text())["computed_with"].values()) == [{"commit on the hub": "1" * 40}]
    publish("2" * 40)
    [again] = ask(12)
    assert again.metrics == record.metrics, "stored answers are scored"
    with pytest.raises(BadInputError, match=r"are of commit 1{12} on the hub, but the hub's cache has commit 2{12}"):
        ask(20)


def test_answers_in_another_data_type_are_not_continued(base: Path, data: Path, tmp_path: Path) -> None:
    evaluate(base, data, tmp_path, limit=12)
    [path] = (tmp_path / "results").glob("*/evals/*/serving.json")
    record = json.loads(path.read_text())
    assert (record["dtype"], record["settings"]["dtype"]) == ("float32", "auto")
    path.write_text(json.dumps(record | {"dtype": "bfloat16"}))  # as of a GPU
    evaluate(base, data, tmp_path, limit=12)
    with pytest.raises(BadInputError, match="were computed in bfloat16, and on this machine dtype=auto is float32"):
        evaluate(base, data, tmp_path, limit=20)
    evaluate(base, data, tmp_path, limit=20, settings={"backend": {"dtype": "bfloat16"}})


def test_an_adapter_that_changes_nothing_is_an_error(base: Path, tmp_path: Path) -> None:
    idle, real = adapter(base, tmp_path / "idle", 0, idle=True), adapter(base, tmp_path / "real", 0)
    with (
        pytest.raises(HarnessError, match="'idle' changes nothing"),
        TransformersBackend(base, {"real": real, "idle": idle}),
    ):
        pass


@pytest.mark.slow
def test_adapters_on_one_base_answer_as_their_merged_weights(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    adapters = {name: adapter(base, tmp_path / name, seed) for seed, name in enumerate(("one", "two"))}
    pictures = [ImageRef(path=tiny_photograph(tmp_path / f"{seed}.png", seed)) for seed in range(4)]

    def asked(target: str) -> list[Request]:
        sampling = Sampling(max_new_tokens=12)
        return [
            Request(str(n), target, "Describe this image.", picture, sampling) for n, picture in enumerate(pictures)
        ]

    answers = {}
    with TransformersBackend(base, adapters) as backend:
        for target in ("base", *adapters):
            answers[target] = [answer.text for answer in backend.generate(asked(target))]
    assert answers["base"] != answers["one"] != answers["two"] != answers["base"]
    for name, folder in adapters.items():
        merged = PeftModel.from_pretrained(load_model(base), str(folder)).merge_and_unload()
        export_full(merged, load_processor(base), tmp_path / f"merged-{name}")
        with TransformersBackend(tmp_path / f"merged-{name}") as backend:
            assert [answer.text for answer in backend.generate(asked("base"))] == answers[name]


def test_the_models_generation_config_changes_no_answer_beside_an_adapter(base: Path, tmp_path: Path) -> None:
    """PEFT has a wrapper around the model, which has a configuration of its own."""
    real = adapter(base, tmp_path / "real", 0)
    pictures = [ImageRef(path=tiny_photograph(tmp_path / f"{seed}.png", seed)) for seed in range(2)]
    sampling = Sampling(max_new_tokens=12)
    asked = [Request(str(n), "base", "Describe this image.", picture, sampling) for n, picture in enumerate(pictures)]

    def answers(adapters: dict[str, Path]) -> list[str]:
        with TransformersBackend(base, adapters) as backend:
            return [answer.text for answer in backend.generate(asked)]

    plain = answers({})
    path = base / "generation_config.json"
    penalties = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1}
    path.write_text(json.dumps(json.loads(path.read_text()) | penalties))
    assert answers({"real": real}) == plain
    assert any(len(set(text.split())) < len(text.split()) for text in plain), "a penalty would change these answers"


def test_an_answer_also_ends_at_the_tokenizers_end_token(base: Path, tmp_path: Path) -> None:
    """As with vLLM, even if generation_config.json has another end token."""
    picture = ImageRef(path=tiny_photograph(tmp_path / "picture.png", 0))
    asked = [Request("1", "base", "what is this", picture, Sampling(max_new_tokens=8), details=True)]

    def answer() -> tuple[tuple[int, ...], str]:
        with TransformersBackend(base) as backend:
            [completion] = backend.generate(asked)
        assert completion.details is not None
        return completion.details.token_ids, completion.finish_reason

    whole, reason = answer()
    tokenizer, path = load_processor(base).tokenizer, base / "tokenizer_config.json"
    assert reason == "length" and whole[0] != tokenizer.eos_token_id
    end = tokenizer.convert_ids_to_tokens(whole[0])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": end}))
    assert answer() == (whole[:1], "stop")
