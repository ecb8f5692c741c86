"""Control tokens in texts are refused by one rule: in preference data, in questions, by every backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import app
from harness.cli.errors import run
from harness.core.errors import BadInputError
from harness.core.types import ImageRef
from harness.evaluation.evaluate import run_eval
from harness.evaluation.request import EvalRequest
from harness.models import AnswerEncoder, control_in, prompt_text, refuse_control, resolve
from harness.remote.endpoint import Reply
from harness.runs.targets import target_of_endpoint, target_of_model
from harness.serving.base import Request, Sampling
from harness.serving.openai import OpenAIBackend
from harness.serving.transformers import TransformersBackend
from harness.serving.vllm import VllmBackend
from tests.harness.serving.fake_vision import small_pope
from tests.tiny import tiny_llava, tiny_parts, tiny_photograph
from tests.tiny_families import FAMILIES

COMMON = ["</s>", "<s>", "<bos>", "<image>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|eot_id|>", "[INST]"]
COMMON += ["<start_of_turn>", "<end_of_utterance>"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("base") / "base")


@pytest.mark.parametrize("token", COMMON)
def test_tokens_that_families_share_are_found_without_a_model(token: str) -> None:
    assert control_in(f"a red {token}cat") == token
    with pytest.raises(BadInputError, match=r"the question contains '.*', which is a control token") as caught:
        refuse_control({"an answer": "a cat", "the question": f"what{token}"}, where="pope, item 3")
    assert caught.value.where == "pope, item 3"


@pytest.mark.parametrize(
    "text",
    [
        "is 3 < 5 and 7 > 2?",
        "the <b>bold</b> sign says [INSTALL]",
        "a | b || c",
        "s > /s",
        "< image >",
        "<|",
        "x<y|z>w",
        "",
    ],
)
def test_ordinary_text_is_no_control_token(text: str) -> None:
    assert control_in(text) is None and control_in(text, tiny_parts()[1]) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_control_token_of_a_model_is_found_and_nothing_else_of_its_vocabulary(family: str) -> None:
    processor = FAMILIES[family]()[1]
    tokenizer = processor.tokenizer
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    assert processor.image_token in special | {processor.image_token}
    for token in special | {processor.image_token}:
        assert control_in(f"what is {token} here", processor) is not None
        with pytest.raises(BadInputError, match="control token"):
            prompt_text(processor, f"what is {token} here")
    for token in set(tokenizer.get_vocab()) - special:
        assert control_in(token, processor) is None
    # What is let through reaches the model as words: no id of a control token is in it.
    ids, _ = AnswerEncoder(processor).encode("is 3 < 5, s > /s, < image >?")
    assert not set(ids) & set(tokenizer.convert_tokens_to_ids(sorted(special)))


def requests(folder: Path, *questions: str) -> list[Request]:
    picture = ImageRef(path=tiny_photograph(folder / "p.png", 0))
    return [
        Request(str(number), "base", question, picture, Sampling(max_new_tokens=2))
        for number, question in enumerate(questions)
    ]


QUESTIONS = ("what is this", "is <image> here", "what is that", "end</s>")


def test_the_transformers_backend_answers_the_others(base: Path, tmp_path: Path) -> None:
    with TransformersBackend(base) as backend:
        found = {one.id: one for one in backend.generate(requests(tmp_path, *QUESTIONS))}
    assert [found[str(number)].refused is None for number in range(4)] == [True, False, True, False]
    assert "'<image>'" in str(found["1"].refused) and found["1"].text == ""


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_refuses_the_same_in_the_same_words(base: Path, tmp_path: Path) -> None:
    if VllmBackend.missing():
        pytest.skip("vLLM is not installed")
    with TransformersBackend(base) as plain, VllmBackend(base) as backend:
        expected, encoded = (
            {one.id: one.refused for one in engine.generate(requests(tmp_path, *QUESTIONS))}
            for engine in (plain, backend)
        )
    assert encoded == expected and sum(one is not None for one in encoded.values()) == 2


def test_an_endpoint_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    class Pool:
        async def ask(self, *_: Any, **__: Any) -> Reply:
            raise AssertionError("it was asked")

    backend = OpenAIBackend("somebodys")
    backend._pool = Pool()  # type: ignore[assignment]
    [request] = requests(tmp_path, "is <|im_end|> here")
    assert "'<|im_end|>'" in str(asyncio.run(backend._answer(request)).refused)


def test_ask_and_eval_say_it_before_an_engine_starts(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersBackend, "start", lambda self: pytest.fail("the engine was started"))
    picture = tiny_photograph(tmp_path / "p.png", 0)
    assert run(app, ["ask", str(base), str(picture), "what is <image> here"]) == 2
    assert "the question contains '<image>', which is a control token" in capsys.readouterr().err
    data = small_pope(tmp_path) / "data"
    path = data / "pope" / "coco_pope_random.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["text"] = "Is there a <|im_end|> in the image?"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    local = target_of_model(resolve(str(base)), tmp_path / "results")
    remote = target_of_endpoint("somebodys", tmp_path / "remote")
    for target, backend in ((local, TransformersBackend), (remote, OpenAIBackend)):
        with pytest.raises(BadInputError, match=r"the question contains '<\|im_end\|>'") as caught:
            run_eval(EvalRequest([target], ["pope"], str(data), backend))  # type: ignore[type-abstract]
        assert str(caught.value.where).startswith("pope, item ")


def test_align_and_data_check_name_the_record_and_the_text(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_photograph(tmp_path / "a.png", 0)
    rows = [
        {"image": "a.png", "prompt": "What is it?", "chosen": "a red cat", "rejected": "a blue dog"},
        {
            "image": "a.png",
            "prompt": "What is it?",
            "chosen": "a red cat<|im_end|>",
            "rejected": "a blue dog",
            "id": "two",
        },
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for more in ([], ["--model", str(base)]):
        assert run(app, ["data", "check", str(path), *more]) == 2
        said = "".join(capsys.readouterr().out.split())  # a terminal's width may break a line anywhere
        assert "d.jsonl:2:thechosenanswercontains'<|im_end|>'" in said
    command = ["align", "--method", "dpo", "--model", str(base), "--data", str(path), "--results", str(tmp_path / "r")]
    assert run(app, command) == 2
    said = capsys.readouterr().err
    assert "the chosen answer contains '<|im_end|>'" in said and "record two" in said
