"""For every family of models: what the trainer encodes is what the processor's own chat template gives, and what vLLM sees."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aligners.base import CHOSEN, REJECTED
from aligners.training.encoding import Encoder
from harness.core.errors import BadInputError
from harness.core.types import ImageRef, PreferenceExample, Turn
from harness.models import (
    AnswerEncoder,
    PromptLengths,
    aliases,
    export_full,
    load_processor,
    prompt_text,
    torchvision_shim,
)
from tests.tiny_families import FAMILIES as USUAL
from tests.tiny_modern import MODERN
from tests.tiny_variants import VARIANTS

FAMILIES = {**USUAL, **VARIANTS, **MODERN}
AS_TEXT = {"glm-4.1v", "glm-4.6v"}
"""Families whose template takes an answer as a text only, and writes nothing behind it."""
NOT_SERVED = {"llava-qwen2", "qwen3-vl-moe"}
"""vLLM 0.32 refuses Qwen2 with windows in some of its layers only, and does not load Qwen3-VL's experts as transformers saves them."""
QUESTION, ANSWER = "What is in the picture?", "a red cat"
SIZES = ((60, 40), (33, 90), (48, 48))


@cache
def processor_of(family: str) -> Any:
    return FAMILIES[family]()[1]


def picture(folder: Path, size: tuple[int, int]) -> Path:
    path = folder / f"{size[0]}x{size[1]}.png"
    Image.effect_noise(size, 80).convert("RGB").save(path)
    return path


def by_template(processor: Any, path: Path, answer: str | list[dict[str, str]] | None = None) -> list[int]:
    """The processor's own way: messages with the image in them to token ids."""
    parts = [{"type": "image", "image": Image.open(path)}, {"type": "text", "text": QUESTION}]
    turns: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    found = processor.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=True, return_dict=True)
    ids = found["input_ids"]
    return [int(token) for token in (ids if isinstance(ids[0], int) else ids[0])]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_image_and_prompt_are_encoded_as_the_chat_template_does(
    family: str, size: tuple[int, int], tmp_path: Path
) -> None:
    processor, path = processor_of(family), picture(tmp_path, size)
    example = PreferenceExample(
        "1", QUESTION, {"original": ImageRef(path=path)}, {"chosen": ANSWER, "rejected": "a dog"}
    )
    encoded = Encoder(processor, (CHOSEN, REJECTED), 1024, corrections=None).encode(example)
    assert list(encoded.prefixes["original"]) == by_template(processor, path)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_lengths_are_known_from_the_size_alone(family: str, size: tuple[int, int], tmp_path: Path) -> None:
    processor = processor_of(family)
    path = picture(tmp_path, size)
    assert PromptLengths(processor).length(QUESTION, size) == len(by_template(processor, path))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_encoded_as_it_stands_behind_its_prompt(family: str, tmp_path: Path) -> None:
    processor, path = processor_of(family), picture(tmp_path, SIZES[0])
    ids, spans = AnswerEncoder(processor).encode(ANSWER)
    whole = by_template(processor, path, ANSWER if family in AS_TEXT else [{"type": "text", "text": ANSWER}])
    if family == "llava-onevision":  # which writes a blank before the line break only in a conversation
        blank = processor.tokenizer.encode(" \n", add_special_tokens=False)
        line_break = processor.tokenizer.encode("\n", add_special_tokens=False)
        place = len(by_template(processor, path)) - len(line_break)
        assert whole[place : place + len(blank)] == blank
        whole[place : place + len(blank)] = line_break
    prompt = by_template(processor, path)
    assert whole[: len(prompt) + len(ids)] == prompt + ids
    end = AnswerEncoder(processor).end
    assert (
        end == (whole if family not in AS_TEXT else [*whole, processor.tokenizer.eos_token_id])[len(prompt) + len(ids)]
    )
    if not family.startswith("gemma"):  # which ends a turn with another token than a text
        assert end == processor.tokenizer.eos_token_id
    assert [ANSWER[start:end].strip() for start, end in spans if start < end] == ANSWER.split()
    assert AnswerEncoder(processor).separator == (" " if family.startswith("smolvlm") else "")


HISTORY = (Turn("user", "Is it big?", has_image=True), Turn("assistant", "No, it is small."))
SYSTEM = Turn("system", "Answer briefly.")
NO_SYSTEM_TURN = (
    "llava-1.5",
    "llava-v1.6",
    "llava-mistral",
    "llava-qwen2",
    "llava-phi3",
    "llava-bos",
    "pixtral",
    "mistral-small",
)
"""The tiny families whose template writes a system turn as an answer."""


@pytest.mark.parametrize("system", [False, True], ids=["turns", "system turn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_is_encoded_as_the_chat_template_writes_it(family: str, system: bool, tmp_path: Path) -> None:
    processor, path = processor_of(family), picture(tmp_path, SIZES[0])
    history = (SYSTEM, *HISTORY) if system else HISTORY
    pair = {"chosen": ANSWER, "rejected": "a dog"}
    example = PreferenceExample("1", QUESTION, {"original": ImageRef(path=path)}, pair, history=history)
    encoder = Encoder(processor, (CHOSEN, REJECTED), 1024, corrections=None)
    if system and family.startswith(NO_SYSTEM_TURN):
        with pytest.raises(BadInputError, match="it has no system turn, and writes it as an answer"):
            encoder.encode(example)
        return
    parts: list[dict[str, Any]] = [{"type": "image", "image": Image.open(path)}]
    answer = HISTORY[1].text if family in AS_TEXT else [{"type": "text", "text": HISTORY[1].text}]
    turns = [
        *([{"role": "system", "content": [{"type": "text", "text": SYSTEM.text}]}] if system else []),
        {"role": "user", "content": [*parts, {"type": "text", "text": HISTORY[0].text}]},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    ]
    found = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True)
    ids = found["input_ids"]
    ids = list(ids if isinstance(ids[0], int) else ids[0])
    encoded = encoder.encode(example)
    assert list(encoded.prefixes["original"]) == ids
    assert PromptLengths(processor).length(QUESTION, SIZES[0], history) == len(ids)
    alone = encoder.encode(PreferenceExample("2", QUESTION, {"original": ImageRef(path=path)}, pair))
    assert encoded.responses == alone.responses, "the earlier turns are masked: the loss counts the same tokens"


def test_a_turn_ends_as_the_template_ends_it_not_as_the_tokenizer_ends_a_text(tmp_path: Path) -> None:
    import copy

    processor, path = copy.deepcopy(processor_of("qwen2.5-vl")), picture(tmp_path, SIZES[0])
    end = processor.tokenizer.eos_token_id
    processor.tokenizer.eos_token = processor.tokenizer.pad_token
    assert processor.tokenizer.eos_token_id != end
    example = PreferenceExample(
        "1", QUESTION, {"original": ImageRef(path=path)}, {"chosen": ANSWER, "rejected": "a dog"}
    )
    encoded = Encoder(processor, (CHOSEN, REJECTED), 1024, corrections=None).encode(example)
    assert [ids[-1] for ids in encoded.responses.values()] == [end, end]
    processor.chat_template = processor.chat_template.replace("<|im_end|>", "")
    assert AnswerEncoder(processor).end == processor.tokenizer.eos_token_id, "the template writes none"


def test_a_template_that_writes_answers_in_another_way_is_refused() -> None:
    import copy

    processor = copy.copy(processor_of("qwen2.5-vl"))
    processor.chat_template = "{{ messages | length }} {{ messages[-1]['content'][-1]['text'] }}"
    with pytest.raises(BadInputError, match="formats an answered question differently"):
        AnswerEncoder(processor)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_takes_what_the_processor_makes(family: str, tmp_path: Path) -> None:
    import torch

    model, processor = FAMILIES[family]()
    image = Image.open(picture(tmp_path, SIZES[0]))
    inputs = processor(text=prompt_text(processor, QUESTION), images=image, return_tensors="pt")
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()


def test_aliases_are_names_on_the_hub_and_code_from_there_is_not_run(tmp_path: Path) -> None:
    hub = {name: ref.location for name, ref in aliases().items() if ref.world is None}
    assert {"llava-1.5-7b", "llava-v1.6-mistral-7b", "qwen2.5-vl-7b", "smolvlm-256m", "smolvlm2-2.2b"} <= set(hub)
    assert all(location and location.count("/") == 1 for location in hub.values())
    ran = tmp_path / "ran"
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "theirs", "auto_map": {"AutoConfig": "code.C", "AutoProcessor": "code.P"}})
    )
    (tmp_path / "processor_config.json").write_text(json.dumps({"auto_map": {"AutoProcessor": "code.P"}}))
    (tmp_path / "code.py").write_text(f"open({str(ran)!r}, 'w')\n")
    with pytest.raises(BadInputError, match="no processor could be loaded"):
        load_processor(tmp_path)
    assert not ran.exists()


_VLLM = """
import json, os, sys
import harness
import torch
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from unittest.mock import MagicMock
from PIL import Image
from vllm.v1.engine.core_client import EngineCoreClient
from harness.serving.vllm import VllmSettings
from harness.serving.vllm_worker import Engine

question, paths, folders = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what vLLM says does not mix with the ids
# Everything that makes ids of a prompt is vLLM's own; only what computes with them is not started, which takes ten seconds a family.
core = MagicMock(**{"get_supported_tasks.return_value": ("generate",), "engine_core.model_executor": None})
EngineCoreClient.make_client = lambda **given: core
for folder in folders:
    kind = "bfloat16" if "qwen3.5" in folder else "float32"  # vLLM's linear attention on CPUs takes nothing else
    order = {"base": folder, "adapters": {}, "max_lora_rank": 0, "cores": None, **VllmSettings(dtype=kind).model_dump()}
    engine = Engine(order)
    sampling = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 1, "seed": 0}
    core.add_request.reset_mock()
    for number, path in enumerate(paths):
        engine.add({"id": str(number), "target": "base", "prompt": question, "sampling": sampling}, Image.open(path))
    ids = [list(call.args[0].prompt_token_ids) for call in core.add_request.call_args_list]
    print(json.dumps([os.path.basename(folder), ids]), file=answers, flush=True)
"""


@pytest.fixture(scope="module")
def seen_by_vllm(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], dict[str, list[list[int]]]]:
    """The pictures, and each family's ids of the question with each picture, as vLLM would compute with them."""
    folder = tmp_path_factory.mktemp("families")
    for family, make in FAMILIES.items():
        export_full(*make(), folder / family)
    paths = [picture(folder, size) for size in SIZES]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _VLLM,
            QUESTION,
            json.dumps([*map(str, paths)]),
            *(str(folder / one) for one in FAMILIES if one not in NOT_SERVED),
        ],
        capture_output=True,
        text=True,
        env=torchvision_shim.child_environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return paths, dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in NOT_SERVED])
def test_vllm_sees_the_same_prompt(family: str, seen_by_vllm: tuple[list[Path], dict[str, list[list[int]]]]) -> None:
    paths, ids = seen_by_vllm
    processor = processor_of(family)
    assert ids[family] == [by_template(processor, path) for path in paths]
