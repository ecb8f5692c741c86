"""vLLM for real: an aligned adapter and full weights are served, answers are those of transformers, and a mixed batch is right."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.checkpoints.ask import AskedCheckpoint
from harness.checkpoints.parity import TOLERANCE, ServedComparison, compare
from harness.checkpoints.probes import draw_probes
from harness.checkpoints.verify import TrainedSide, served_side
from harness.core.errors import BadInputError, HarnessError
from harness.core.types import ImageRef
from harness.serving.base import Backend, Request, Sampling, TokenDetails
from tests import warm
from tests.tiny import tiny_llava, tiny_photograph

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
PROMPTS = ("Describe this image.", "what is this", "Is there a dog in the image?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two adapters of it that were trained by `harness align`, and pictures."""
    folder = tmp_path_factory.mktemp("served")
    tiny_llava(folder / "base")
    for seed in range(3):
        tiny_photograph(folder / f"{seed}.png", seed)
    for name, (chosen, rejected) in {"one": ("a red cat", "a blue dog"), "two": ("a blue dog", "a red cat")}.items():
        pair = {"prompt": "Describe this image.", "chosen": chosen, "rejected": rejected}
        rows = [json.dumps(pair | {"id": str(n), "image": f"{n % 3}.png"}) for n in range(12)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
        settings = [
            "train.learning_rate=3e-3",
            "train.epochs=4",
            "train.batch_size=4",
            "train.lora={rank: 8, alpha: 16}",
        ]
        command = ["align", "--method", "dpo", "--model", "./base", "--data", f"{name}.jsonl", "--name", name]
        run(command + [part for setting in settings for part in ("--set", setting)], folder)
    return folder


def run(arguments: list[str], cwd: Path) -> str:
    done = warm.run(arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def requests(folder: Path, targets: list[str]) -> list[Request]:
    """Every prompt about every picture to every target, the targets mixed."""
    sampling = Sampling(max_new_tokens=12)
    pictures = [ImageRef(path=folder / f"{seed}.png") for seed in range(3)]
    return [
        Request(f"{target}/{number}/{prompt}", target, prompt, picture, sampling)
        for number, picture in enumerate(pictures)
        for prompt in PROMPTS
        for target in targets
    ]


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, str]:
    """What transformers answers."""
    from harness.serving.transformers import TransformersBackend

    adapters = {name: folder / "results" / name / "checkpoint" for name in ("one", "two")}
    asked = sorted(requests(folder, ["base", "one", "two"]), key=lambda request: request.target)
    with TransformersBackend(folder / "base", adapters) as backend:
        return {one.id: one.text for one in backend.generate(asked)}


@pytest.mark.slow
def test_batch_1_and_batch_8_of_transformers_agree(folder: Path, expected: dict[str, str]) -> None:
    from harness.serving.transformers import TransformersBackend, TransformersSettings

    with TransformersBackend(folder / "base", settings=TransformersSettings(batch_size=1)) as backend:
        alone = {one.id: one.text for one in backend.generate(requests(folder, ["base"]))}
    assert alone == {name: text for name, text in expected.items() if name.startswith("base/")}


@needs_vllm
@pytest.mark.slow
@pytest.mark.vllm
def test_one_engine_serves_base_and_adapters_as_transformers_does(folder: Path, expected: dict[str, str]) -> None:
    from harness.serving.vllm import VllmBackend

    adapters = {name: folder / "results" / name / "checkpoint" for name in ("one", "two")}
    with VllmBackend(folder / "base", adapters) as backend:
        answers = {one.id: one for one in backend.generate(requests(folder, ["base", "one", "two"]))}
        provenance = backend.provenance()
        probed = served_side(backend, checkpoints(folder), draw_probes(9))
        broken_picture = ImageRef(data=b"no picture", name="broken.png")
        request = replace(requests(folder, ["base"])[0], image=broken_picture)
        with pytest.raises(BadInputError, match="image") as caught:
            list(backend.generate([request]))
    assert {name: one.text for name, one in answers.items()} == expected
    by_target = {
        target: [text for name, text in expected.items() if name.startswith(f"{target}/")]
        for target in ("base", "one", "two")
    }
    assert by_target["one"] != by_target["base"] != by_target["two"] != by_target["one"]
    assert provenance["distribution"].startswith("vllm")
    assert all(one.finish_reason in ("stop", "length") and one.prompt_tokens > 36 for one in answers.values())
    assert provenance["dtype"] == "float32"
    with pytest.raises(BadInputError) as expected_error:
        broken_picture.open()
    assert str(caught.value) == str(expected_error.value), "the engine's error is that of the picture"
    assert_verified(folder, probed)


def checkpoints(folder: Path) -> list[AskedCheckpoint]:
    """Base and adapters, as `harness verify` takes them."""
    adapters = {name: folder / "results" / name / "checkpoint" for name in ("one", "two")}
    return [
        AskedCheckpoint("base", str(folder / "base"), None),
        *(AskedCheckpoint(n, str(folder / "base"), a) for n, a in adapters.items()),
    ]


def assert_verified(folder: Path, probed: dict[str, dict[str, TokenDetails]]) -> None:
    """What vLLM said to the probes is what transformers says, and is told from what other weights, prompts and images would give."""
    drawn = draw_probes(9)

    def against(checkpoint: AskedCheckpoint, answers: dict[str, TokenDetails]) -> tuple[ServedComparison, list[str]]:
        trained = TrainedSide([checkpoint], "float32")
        expected = [trained.values(checkpoint, probe, answers[probe.id]) for probe in drawn]
        served = [answers[probe.id] for probe in drawn]
        return compare(drawn, expected, served, TOLERANCE["float32"]), trained.differences(checkpoint)

    base, first, two = checkpoints(folder)
    for checkpoint in (base, first, two):
        record, differences = against(checkpoint, probed[checkpoint.name])
        assert record.findings == record.notes == differences == [] and record.largest < 1e-4
        assert all(row.same_ids and row.same_tokens == row.tokens > 0 for row in record.probes)
    assert record.adapter_changes > 0.1

    found = " ".join(against(first, probed["two"])[0].findings)  # other weights than those that are served
    assert "nats; check the served weights" in found
    assert "the adapter is not applied" in against(first, probed["base"])[0].findings[-1]

    changed = broken(folder, first, "image", "processor_config.json", '"height": 72', '"height": 96')
    record, differences = against(changed, probed["one"])
    assert len(record.findings) == 9 and "48 image tokens in training and 36 in serving" in record.findings[0]
    assert "crop_size" in differences[0]

    changed = broken(folder, first, "template", "chat_template.jinja", "USER:", "Human:")
    record, differences = against(changed, probed["one"])
    assert len(record.findings) == 9 and "check the chat template and the tokenizer" in record.findings[0]
    assert "the chat template differ between" in differences[0]


def broken(folder: Path, checkpoint: AskedCheckpoint, name: str, file: str, old: str, new: str) -> AskedCheckpoint:
    """A copy of an adapter whose processor is another one."""
    assert checkpoint.adapter is not None
    copy = folder / f"broken-{name}"
    shutil.copytree(checkpoint.adapter, copy)
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    return AskedCheckpoint(name, checkpoint.base, copy)


@needs_vllm
@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.exhaustive
def test_full_weights_are_served(folder: Path) -> None:
    from harness.serving.transformers import TransformersBackend
    from harness.serving.vllm import VllmBackend

    run(
        [
            "align",
            "--method",
            "dpo",
            "--model",
            "./base",
            "--data",
            "one.jsonl",
            "--name",
            "full",
            "--full",
            "--set",
            "train.learning_rate=1e-3",
        ],
        folder,
    )
    checkpoint = folder / "results" / "full" / "checkpoint"
    answers = []
    for kind in (TransformersBackend, VllmBackend):
        with kind(checkpoint) as backend:
            answers.append({one.id: one.text for one in backend.generate(requests(folder, ["base"]))})
            drawn = [drawn_answers(backend, folder, order) for order in ("one prompt after the other", "mixed")]
            assert drawn[0] == drawn[1] and len(set(drawn[0].values())) > 3, "each answer is drawn by its own seed"
    assert answers[0] == answers[1]


def drawn_answers(backend: Backend, folder: Path, order: str) -> dict[str, str]:
    """Four answers to each of two prompts about each of two pictures, by their own seeds."""
    samplings = [Sampling(temperature=1.0, seed=seed, max_new_tokens=12) for seed in range(4)]
    pictures = [ImageRef(path=folder / f"{number}.png") for number in range(2)]
    asked = [
        Request(f"{text} {number} {sampling.seed}", "base", text, picture, sampling)
        for text in PROMPTS[:2]
        for number, picture in enumerate(pictures)
        for sampling in samplings
    ]
    if order == "mixed":
        asked.sort(key=lambda request: request.sampling.seed)
    return {one.id: one.text for one in backend.generate(asked)}


@needs_vllm
@pytest.mark.slow
@pytest.mark.vllm
def test_an_engine_that_was_prepared_for_nothing_is_gone_at_once(folder: Path) -> None:
    from harness.serving.vllm import VllmBackend

    backend = VllmBackend(folder / "base")
    backend.prepare()
    [engine] = backend._engines
    assert engine._process.poll() is None and Path(engine.log).exists()
    maps, end = Path(f"/proc/{engine._process.pid}/maps"), time.monotonic() + 120
    while (
        "/msgspec/" not in maps.read_text() and time.monotonic() < end
    ):  # a library that vLLM imports, and the harness does not
        time.sleep(0.1)
    assert "/msgspec/" in maps.read_text(), "vLLM is imported without an order"
    started = time.perf_counter()
    backend.close()
    assert time.perf_counter() - started < 5 and engine._process.poll() is not None and not Path(engine.log).exists()
    backend.close()


@needs_vllm
@pytest.mark.slow
@pytest.mark.vllm
def test_an_adapter_that_changes_nothing_is_an_error(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from harness.serving.vllm import VllmBackend

    adapter = tmp_path / "idle"
    adapter.mkdir()
    for path in (folder / "results" / "one" / "checkpoint").iterdir():
        (adapter / path.name).write_bytes(path.read_bytes())
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: value * 0 if "lora_B" in name else value for name, value in weights.items()},
        adapter / "adapter_model.safetensors",
    )
    with pytest.raises(HarnessError, match="changes nothing"), VllmBackend(folder / "base", {"idle": adapter}):
        pass


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[str]:
    """The URL of `harness serve one`, which serves the base and the adapter."""
    from openai import APIConnectionError, OpenAI

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "serve", "one", "--port", str(port)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}/v1"
        client = OpenAI(base_url=url, api_key="none", max_retries=0)
        deadline = time.monotonic() + 240
        names: set[str] = set()
        while not names and time.monotonic() < deadline:
            assert process.poll() is None, process.stdout and process.stdout.read().decode()[-3000:]
            with contextlib.suppress(APIConnectionError):
                names = {model.id for model in client.models.list()}
            time.sleep(1)
        assert names == {"base", "one"}
        yield url
    finally:
        os.kill(process.pid, signal.SIGINT)
        try:
            process.wait(timeout=40)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@needs_vllm
@pytest.mark.slow
@pytest.mark.vllm
def test_the_server_answers_the_openai_client(folder: Path, served: str) -> None:
    import base64

    from openai import OpenAI

    url = "data:image/png;base64," + base64.b64encode((folder / "0.png").read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Describe this image."}]
    answer = OpenAI(base_url=served, api_key="none").chat.completions.create(
        model="one",
        max_tokens=8,
        temperature=0,
        messages=[{"role": "user", "content": content}],  # type: ignore[list-item,misc]
    )
    assert answer.usage is not None and answer.usage.prompt_tokens > 36
    assert answer.choices[0].message.content


@needs_vllm
@pytest.mark.slow
@pytest.mark.vllm
def test_the_server_judges(folder: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says is nonsense, the protocol is real: every item gets its replies, once, and none can be read."""
    from harness.core.types import Item, Response
    from harness.judging.base import JudgeRequest
    from harness.judging.openai import OpenAIJudge
    from harness.judging.panel import ask
    from harness.judging.settings import OpenAIJudgeSettings
    from harness.remote.endpoint import KEY_VARIABLE

    monkeypatch.setenv(KEY_VARIABLE, "none")
    # This model's answers end at once where its first token is the last: such replies are empty, and are given up on.
    settings = OpenAIJudgeSettings(base_url=served, model="one", max_tokens=8, asks=2, attempts=2, price=(1, 1))
    judge = OpenAIJudge(settings, folder / "judged")
    requests = [
        JudgeRequest(Item(str(n), "", ImageRef(), str(n)), Response(str(n), ""), f"Is there a dog in the image? {n}")
        for n in range(20)
    ]
    votes = ask(judge, requests, lambda text: None)
    assert set(votes) == {str(n) for n in range(20)} and all(vote[0].reason for vote in votes.values())
    replies = [vote[0].text for vote in votes.values() if vote[0].text is not None]
    assert replies, "no reply had a text"
    took = judge.provenance()["took"]
    assert took["calls"] >= 20 and took["prompt_tokens"] > 20 * 5 and took["usd"] > 0
    assert judge.provenance()["answered_by"] == ["one"]
    again = OpenAIJudge(settings, folder / "judged")
    kept = ask(again, requests, lambda text: None)
    assert {name: vote[0].text for name, vote in kept.items() if vote[0].text} == {
        name: vote[0].text for name, vote in votes.items() if vote[0].text
    }


@needs_vllm
@pytest.mark.slow
@pytest.mark.vllm
def test_the_server_is_a_backend(
    folder: Path, served: str, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same questions behind the OpenAI protocol: the same answers, in the same number of tokens, as from the weights."""
    from harness.remote.endpoint import KEY_VARIABLE
    from harness.serving.openai import OpenAIBackend, OpenAISettings

    monkeypatch.setenv(KEY_VARIABLE, "none")
    asked = requests(folder, ["one"])
    with OpenAIBackend("one", settings=OpenAISettings(endpoints=(served,))) as backend:
        answers = {answer.id: answer for answer in backend.generate(asked)}
    assert {name: answer.text for name, answer in answers.items()} == {one.id: expected[one.id] for one in asked}
    assert all(answer.finish_reason in ("stop", "length") and answer.prompt_tokens > 36 for answer in answers.values())
    assert {answer.model for answer in answers.values()} == {"one"}
