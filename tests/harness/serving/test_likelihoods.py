"""Answers chosen by their likelihoods: those of a plain forward pass, the same from every backend, refused where there are none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.core.errors import BadInputError
from harness.core.types import NO_IMAGE, ImageRef
from harness.evaluation.request import EvalRequest, prepare
from harness.models import first_tokens, load_model, load_processor, prompt_inputs
from harness.records.answer_files import answer_record
from harness.remote.endpoint import KEY_VARIABLE
from harness.serving.base import Backend, Completion, Request, Sampling
from harness.serving.openai import OpenAIBackend, OpenAISettings
from harness.serving.transformers import TransformersBackend, TransformersSettings
from harness.worlds.pocket import shipped
from tests.commands import run_here
from tests.harness.serving.fake_vision import SECRET, Handler, seeing, small_pope
from tests.harness.serving.test_vllm import needs_vllm
from tests.tiny import tiny_parts, tiny_photograph

CHOICES = ("Yes", "No")
PROMPTS = (
    "Is there a dog in this image?",
    "Is the large red chair to the left of the blue dining table in this image?",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket world's base model, an adapter of it with random weights, and pictures."""
    folder = tmp_path_factory.mktemp("likelihoods")
    shipped.unpack(folder / "base")
    for seed in range(2):
        tiny_photograph(folder / f"{seed}.png", seed)
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(target_modules=r".*language_model.*\.(q_proj|o_proj)", init_lora_weights=False, r=8)
    adapted = get_peft_model(load_model(folder / "base", "float32"), lora)
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "base")
    adapted.save_pretrained(folder / "adapter")
    return folder


def questions(folder: Path) -> list[Request]:
    """Short and long ones, compared and written, with a picture and without, to base and adapter."""
    pictures = [*(ImageRef(path=folder / f"{seed}.png") for seed in range(2)), NO_IMAGE]
    return [
        Request(f"{target}/{number}/{prompt}/{kind}", target, prompt, picture, Sampling(max_new_tokens=6), choices=choices)
        for target in ("base", "one")
        for number, picture in enumerate(pictures)
        for kind, choices in (("compared", CHOICES), ("written", ()))
        for prompt in PROMPTS
    ]  # fmt: skip


def asked(kind: type[Backend], folder: Path, settings: Any) -> dict[str, Completion]:
    with kind(folder / "base", {"one": folder / "adapter"}, settings) as backend:
        return {one.id: one for one in backend.generate(questions(folder))}


def compare(completions: dict[str, Completion], expected: dict[str, tuple[float, ...]], atol: float) -> None:
    for name, values in expected.items():
        assert completions[name].likelihoods == pytest.approx(values, abs=atol), name
        assert completions[name].text == ("Yes" if values[0] > values[1] else "No")
    assert all(one.likelihoods is None for name, one in completions.items() if name.endswith("written"))


@pytest.fixture(scope="module")
def by_forward_pass(folder: Path) -> dict[str, tuple[float, ...]]:
    """The log-probabilities of Yes and No behind each prompt, by one forward pass for each and without code of the backends."""
    from peft import PeftModel

    processor = load_processor(folder / "base")
    model = PeftModel.from_pretrained(load_model(folder / "base", "float32"), folder / "adapter").eval()
    tokens = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in CHOICES]
    completions = {}
    for request in questions(folder):
        if not request.choices:
            continue
        if request.image.absent:
            turns = [{"role": "user", "content": [{"type": "text", "text": request.prompt}]}]
            text = processor.apply_chat_template(turns, add_generation_prompt=True)
            inputs = dict(processor(text=text, return_tensors="pt"))
        else:
            inputs = prompt_inputs(processor, request.prompt, request.image.open())
        with torch.no_grad(), model.disable_adapter() if request.target == "base" else torch.no_grad():
            logits = model(**inputs).logits[0, -1].double()
        completions[request.id] = tuple(float(logits.log_softmax(-1)[token]) for [token] in tokens)
    assert len({round(values[0], 3) for values in completions.values()}) == len(completions) == 12
    return completions


def test_transformers_gives_the_likelihoods_of_a_plain_forward_pass(
    folder: Path, by_forward_pass: dict[str, tuple[float, ...]]
) -> None:
    compare(asked(TransformersBackend, folder, TransformersSettings(dtype="float32")), by_forward_pass, 1e-4)


@needs_vllm
@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_gives_the_same(folder: Path, by_forward_pass: dict[str, tuple[float, ...]]) -> None:
    from harness.serving.vllm import VllmBackend, VllmSettings

    completions = asked(VllmBackend, folder, VllmSettings(dtype="float32"))
    compare(completions, by_forward_pass, 1e-3)
    written = asked(TransformersBackend, folder, TransformersSettings(dtype="float32"))
    assert {name: one.text for name, one in completions.items()} == {name: one.text for name, one in written.items()}


def test_an_answer_of_several_tokens_is_refused() -> None:
    with pytest.raises(BadInputError, match="'Yes' cannot be read off the next token: it is 3 tokens long"):
        first_tokens(tiny_parts()[1], CHOICES)


class Telling(Handler):
    """Reports the likeliest first tokens, as OpenAI's endpoint and vLLM's do."""

    tops: Any = (("Yes", -0.5), (" No", -1.5), ("No", -2.0))

    def send(self, status: int, value: Any, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        if status == 200 and "choices" in value and self.tops is not None:
            listed = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in self.tops]
            value["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": -9, "top_logprobs": listed}]}
        super().send(status, value, headers, cut)


class Refusing(Handler):
    """Does not know the parameter."""

    def answer(self, body: dict[str, Any]) -> None:
        if "logprobs" in body:
            said = {"message": "'logprobs' is not supported with this model", "code": "unsupported_parameter"}
            self.send(400, {"error": said})
            return
        super().answer(body)


def telling(tops: Any) -> type[Handler]:
    return type("Telling", (Telling,), {"tops": tops})


def told(folder: Path, handler: type[Handler]) -> Completion:
    request = Request("1", "base", PROMPTS[0], ImageRef(path=folder / "0.png"), Sampling(), choices=CHOICES)
    with seeing() as server:
        server.RequestHandlerClass = handler
        with OpenAIBackend("seer", settings=OpenAISettings(endpoints=(server.url,), attempts=1)) as backend:
            backend.check_likelihoods()
            [completion] = backend.generate([request])
        body = server.bodies[-1]
        assert (body["temperature"], body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (0.0, True, 20, 1)
    return completion


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    yield


def test_an_endpoint_reports_its_likeliest_tokens(folder: Path, key: None) -> None:
    completions = told(folder, Telling)
    assert (completions.text, completions.likelihoods) == ("Yes", (-0.5, -1.5)), (
        "with a blank before it, No is likelier"
    )
    completions = told(folder, telling([("I", -0.1), ("No", -4.0)]))
    assert (completions.text, completions.likelihoods) == ("No", (None, -4.0)), (
        "Yes is less likely than all that are reported"
    )
    completions = told(folder, telling([("I", -0.1), ("Noun", -4.0), ("yes", -5.0)]))
    assert completions.text == "" and completions.refused is not None
    assert "neither Yes nor No is among the 3 likeliest first tokens" in completions.refused


@pytest.mark.parametrize(
    ("handler", "said"), [(telling(None), "has no logprobs"), (telling([]), "has no logprobs"), (Refusing, "supported")]
)
def test_an_endpoint_without_log_probabilities_is_refused_before_a_question_is_asked(
    handler: type[Handler], said: str, folder: Path, tmp_path: Path, key: None, capsys: pytest.CaptureFixture[str]
) -> None:
    small_pope(tmp_path, images=2)
    with seeing() as server:
        server.RequestHandlerClass = handler
        command = [
            "eval",
            "--model",
            "seer",
            "--endpoint",
            server.url,
            "--suite",
            "pope",
            "--data",
            str(tmp_path / "data"),
        ]
        code, _, error = run_here([*command, "--set", "pope.answer=likelihood"], tmp_path)
        assert (
            code == 2 and "gives no log-probabilities" in error and said in error and "pope" not in str(server.answered)
        )
        assert not any("dog" in prompt for _, prompt in server.answered)
        assert run_here(command, tmp_path)[0] == 0 and any("dog" in prompt for _, prompt in server.answered)


class Silent(TransformersBackend):
    """A backend that only writes."""

    name = "silent"
    gives_likelihoods = False


def test_a_backend_without_log_probabilities_is_refused_before_it_starts(folder: Path, tmp_path: Path) -> None:
    small_pope(tmp_path, images=2)
    request = EvalRequest([], ["pope"], str(tmp_path / "data"), Silent, {"pope": {"answer": "likelihood"}})
    with pytest.raises(BadInputError, match="'silent' gives no log-probabilities") as caught:
        prepare(request)
    assert "--backend openai or transformers or vllm" in str(caught.value.remedy)


SUITES = ("amber", "pope", "mme", "hallusionbench")


@pytest.mark.claims("amber.answer", "pope.answer", "mme.answer", "hallusionbench.answer")
def test_suites_compare_the_likelihoods_under_their_own_name(tmp_path: Path) -> None:
    """Descriptions are still written; both ways of answering are kept beside each other."""
    settings = [part for suite in SUITES for part in ("--set", f"{suite}.answer=likelihood")]
    command = ["eval", "--model", "pocket", "--suite", ",".join(SUITES), "--limit", "4", "--backend", "transformers"]
    command += [
        "--set",
        "hallusionbench.scoring=match",
        "--set",
        "amber.similarity=exact",
        "--set",
        "amber.nouns=spacy",
    ]
    command += ["--results", str(tmp_path / "results"), "--json"]
    code, printed, _ = run_here([*command, *settings], tmp_path)
    variants = {record["suite"]: record["variant"] for record in json.loads(printed)}
    assert code == 0 and variants == dict(
        zip(SUITES, ("spacy+exact+likelihood", "likelihood", "likelihood", "match+likelihood"), strict=True)
    )
    for suite in SUITES:
        log = tmp_path / "results" / "base-pocket" / "evals" / f"{suite}@pocket-test" / "responses.jsonl"
        rows = [answer_record(line, number, log) for number, line in enumerate(log.read_bytes().splitlines(), 1)]
        compared = [row for row in rows if row.likelihoods is not None]
        assert all(row.text in CHOICES and row.completion_tokens == 1 for row in compared) and compared
        assert all(sum(math.exp(value or 0) for value in row.likelihoods or ()) <= 1 for row in compared)
        assert (len(compared) < len(rows)) == (suite == "amber")
        assert all(len(row.text.split()) > 1 for row in rows if row.likelihoods is None)


@pytest.mark.claims("pope-aokvqa.answer", "pope-gqa.answer")
def test_pope_of_other_pictures_too(tmp_path: Path) -> None:
    from benchmarks.pope import POPE, POPEAOKVQA, POPEGQA
    from benchmarks.suffix import YesNoSettings

    small_pope(tmp_path, images=1)
    source = tmp_path / "data" / "pope"
    for kind, prefix in ((POPE, "coco"), (POPEAOKVQA, "aokvqa"), (POPEGQA, "gqa")):
        (source / f"{prefix}_pope_random.json").write_bytes((source / "coco_pope_random.json").read_bytes())
        suite = kind(YesNoSettings(answer="likelihood", suffix="Answer yes or no."))
        assert {item.choices for item in suite.items(source)} == {CHOICES}
        assert suite.variant == 'likelihood+suffix "Answer yes or no."'
        assert {item.choices for item in kind(YesNoSettings()).items(source)} == {()}
        assert kind(YesNoSettings()).settings.model_dump() == {}
