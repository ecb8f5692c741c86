"""A template that writes the tokenizer's first token itself: it is there once, in training, in every backend and behind a served URL.

`llava-bos` is the other kind, whose tokenizer writes it and whose template does not.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aligners.base import CHOSEN, REJECTED
from aligners.training.encoding import Encoder
from harness.checkpoints.ask import AskedCheckpoint
from harness.checkpoints.probes import draw_probes
from harness.checkpoints.verify import TrainedSide
from harness.cli import app
from harness.cli.errors import run
from harness.core.errors import HarnessError
from harness.core.types import ImageRef, PreferenceExample
from harness.models import export_full, load_processor, own_prompt_ids, text_options
from harness.serving.base import Request, Sampling, TokenDetails
from harness.serving.transformers import TransformersBackend
from tests.tiny import tiny_photograph
from tests.tiny_variants import VARIANTS

KINDS = ("pixtral", "gemma3", "llava-bos")
SERVED = ("llava-bos", *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("pixtral", "gemma3")))
"""An engine each. What vLLM's front end makes of every kind's prompt is compared in `test_families.py`."""
QUESTION = "What is it?"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind, and a picture."""
    folder = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        export_full(*VARIANTS[kind](), folder / kind)
    tiny_photograph(folder / "p.png", 0, (60, 90))
    return folder


def once(processor: Any, ids: list[int]) -> bool:
    first = processor.tokenizer.bos_token_id
    return ids[0] == first and ids.count(first) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_there_once_in_training(kind: str, models: Path) -> None:
    processor = load_processor(models / kind)
    picture = ImageRef(path=models / "p.png")
    ids = own_prompt_ids(processor, QUESTION, picture.open())
    assert once(processor, ids)
    assert text_options(processor) == ({} if kind == "llava-bos" else {"add_special_tokens": False})
    row = PreferenceExample("1", QUESTION, {"original": picture}, {"chosen": "a cat", "rejected": "a dog"})
    encoded = Encoder(processor, [CHOSEN, REJECTED], 512, corrections=None).encode(row)
    assert list(encoded.prefixes["original"]) == ids
    first = processor.tokenizer.bos_token_id
    assert all(first not in ids and len(ids) > 1 for ids in encoded.responses.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_transformers_backend_asks_with_it_once(kind: str, models: Path) -> None:
    processor = load_processor(models / kind)
    picture = ImageRef(path=models / "p.png")
    sampling = Sampling(max_new_tokens=2)
    asked = [Request(str(n), "base", QUESTION + " Tell." * n, picture, sampling, details=True) for n in range(3)]
    with TransformersBackend(str(models / kind)) as backend:
        found = {one.id: one.details for one in backend.generate(asked)}
    for request in asked:
        details = found[request.id]
        assert details is not None
        assert list(details.prompt_ids) == own_prompt_ids(processor, request.prompt, picture.open())


def test_verify_compares_with_the_processors_own_ids(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["verify", str(models / "pixtral"), "--backend", "transformers", "--probes", "2"]
    assert run(app, command) == 0
    served = served_with_a_second_one(models / "pixtral")
    [probe] = draw_probes(1)
    side = TrainedSide([AskedCheckpoint("base", str(models / "pixtral"), None)], "float32")
    expected = side.values(AskedCheckpoint("base", str(models / "pixtral"), None), probe, served)
    assert expected.prompt_ids == served.prompt_ids[1:], "what is served with two of them is found"
    # Both sides wrong in the same way, as they were: the processor's own ids find it.
    monkeypatch.setattr("harness.models.processors.text_options", lambda processor: {})
    with pytest.raises(HarnessError, match="are not those of the processor's own chat template"):
        side.values(AskedCheckpoint("base", str(models / "pixtral"), None), probe, served)
    capsys.readouterr()
    assert run(app, command) == 1
    assert "the processor's own chat template" in " ".join(capsys.readouterr().err.split())


def served_with_a_second_one(folder: Path) -> TokenDetails:
    """What a backend says that asked the first probe with two first tokens."""
    [probe] = draw_probes(1)
    processor = load_processor(folder)
    ids = own_prompt_ids(processor, probe.prompt, probe.image.open())
    return TokenDetails((processor.tokenizer.bos_token_id, *ids), (5,), (-1.0,))


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("kind", SERVED)
def test_vllm_serves_it_as_transformers_computes_it(
    kind: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["verify", str(models / kind), "--json", "--probes", "3", "--backend", "vllm"]
    code = run(app, command)
    record = json.loads(capsys.readouterr().out)
    assert all(probe["same_ids"] for probe in record["probes"])
    if kind != "gemma3":  # whose images see themselves in both directions, which vLLM does not compute on a CPU
        assert code == 0 and record["same"] and record["largest"] < 1e-3


@pytest.fixture(scope="module")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Starts `harness serve` on a kind, and gives back its URL; the last one is stopped at the end."""
    processes: list[subprocess.Popen[str]] = []

    def stop() -> None:
        for process in processes:
            os.kill(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=40)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        processes.clear()

    def start(kind: str) -> str:
        stop()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = (tmp_path_factory.mktemp("log") / "serve.log").open("w+")
        command = [sys.executable, "-m", "harness", "serve", str(models / kind), "--port", str(port)]
        processes.append(
            subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, text=True)
        )
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            assert processes[-1].poll() is None, Path(log.name).read_text()[-3000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return f"http://127.0.0.1:{port}/v1"
            time.sleep(0.5)
        raise AssertionError("it was not ready")

    yield start
    stop()


@pytest.mark.exhaustive
@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("kind", SERVED)
def test_a_served_model_is_asked_with_it_once(kind: str, models: Path, served: Callable[[str], str]) -> None:
    """vLLM's chat endpoint lets the template alone write it, so a template that does not would leave it out."""
    picture = models / "p.png"
    url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    body: dict[str, Any] = {"model": kind, "max_tokens": 1, "temperature": 0, "return_token_ids": True}
    body["messages"] = [{"role": "user", "content": content}]
    request = urllib.request.Request(
        served(kind) + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.loads(answer.read())
    ids = found["prompt_token_ids"]
    assert ids == own_prompt_ids(load_processor(models / kind), QUESTION, ImageRef(path=picture).open())
