"""Each setting of a backend, of the sampling and of a judge changes what is asked, how often, or how it is computed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.core.config import parse
from harness.core.errors import BadInputError, HarnessError
from harness.core.types import ImageRef
from harness.judging.panel import ask as ask_panel
from harness.remote.endpoint import KEY_VARIABLE
from harness.serving.base import Request, Sampling
from harness.serving.draws import Draws
from harness.serving.openai import OpenAISettings
from harness.serving.transformers import TransformersBackend, TransformersSettings
from harness.serving.vllm import VllmSettings
from tests.harness.judging.fake_endpoint import make
from tests.harness.judging.fake_endpoint import requests as to_judge
from tests.harness.judging.fake_endpoint import serving as judging
from tests.harness.judging.test_openai_judge import read
from tests.harness.serving.fake_vision import SECRET, Handler, VisionServer, seeing
from tests.harness.serving.test_openai_backend import ask, questions
from tests.harness.serving.test_vllm import needs_vllm
from tests.tiny import tiny_llava, tiny_photograph


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRef]:
    folder = tmp_path_factory.mktemp("pictures")
    return [ImageRef(path=tiny_photograph(folder / f"{seed}.png", seed)) for seed in range(4)]


class Slow(Handler):
    """Takes its time, and counts how many questions are under way."""

    running = most = 0
    lock = threading.Lock()
    seconds = 0.05

    def answer(self, body: dict[str, Any]) -> None:
        with Slow.lock:
            Slow.running += 1
            Slow.most = max(Slow.most, Slow.running)
        time.sleep(Slow.seconds)
        with Slow.lock:
            Slow.running -= 1
        super().answer(body)


class Other(Handler):
    """Another model answers than was asked for."""

    def answer(self, body: dict[str, Any]) -> None:
        before, self.server.model = self.server.model, "another"
        try:
            super().answer(body)
        finally:
            self.server.model = before


class Strict(Handler):
    """Takes an answer's limit under its newer name only."""

    def answer(self, body: dict[str, Any]) -> None:
        if "max_tokens" in body:
            said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            error = {"message": said, "param": "max_tokens", "code": "unsupported_parameter"}
            self.send(400, {"error": error})
            return
        super().answer(body)


@pytest.fixture
def server() -> Iterator[VisionServer]:
    with seeing() as running:
        yield running


@pytest.mark.claims("backend.openai.concurrency")
def test_so_many_requests_at_once(server: VisionServer, pictures: list[ImageRef]) -> None:
    server.RequestHandlerClass = Slow
    most = {}
    for wanted in (1, 4):
        Slow.most = 0
        ask(questions(pictures, 3), server, concurrency=wanted)
        most[wanted] = Slow.most
    assert most[1] == 1 < most[4] <= 4


@pytest.mark.slow
@pytest.mark.claims("backend.openai.timeout_s", "backend.openai.attempts")
def test_how_long_and_how_often_an_answer_is_waited_for(server: VisionServer, pictures: list[ImageRef]) -> None:
    """A server that is too slow for a tenth of a second, and quick enough for five."""
    requests = questions(pictures[:1], 1)
    assert ask(requests, server, attempts=1)[0].text
    server.RequestHandlerClass = Slow
    Slow.seconds = 0.6
    try:
        assert ask(requests, server, attempts=1, timeout_s=5)[0].text
        with pytest.raises(HarnessError, match="no answer"):
            ask(requests, server, attempts=1, timeout_s=0.1)
    finally:
        Slow.seconds = 0.05
    server.RequestHandlerClass = Handler
    calls = []
    for attempts in (1, 3):
        server.troubles.clear()
        server.trouble = 0.0
        from harness.serving.openai import OpenAIBackend

        chosen = OpenAISettings.model_validate({"endpoints": [server.url], "attempts": attempts})
        with OpenAIBackend("seer", settings=chosen) as backend:
            server.trouble = 1.0
            with pytest.raises(HarnessError):
                list(backend.generate(requests))
        calls.append(server.troubles.total())
    assert calls[0] == 1 and calls[1] >= 3


@pytest.mark.claims("backend.openai.accept")
def test_who_may_answer(server: VisionServer, pictures: list[ImageRef]) -> None:
    server.RequestHandlerClass = Other
    with pytest.raises(HarnessError, match="'another'"):
        ask(questions(pictures[:1], 1), server)
    assert ask(questions(pictures[:1], 1), server, accept="any")[0].model == "another"


@pytest.mark.claims("backend.openai.token_parameter")
def test_what_the_limit_is_called(server: VisionServer, pictures: list[ImageRef]) -> None:
    server.RequestHandlerClass = Strict
    assert ask(questions(pictures[:1], 1), server)[0].text, "auto finds out"
    assert "max_completion_tokens" in server.bodies[-1]
    with pytest.raises(HarnessError, match="max_tokens"):
        ask(questions(pictures[:1], 1), server, token_parameter="max_tokens")


@pytest.mark.claims("backend.openai.dtype")
def test_nobody_here_decides_in_what_an_endpoint_computes() -> None:
    with pytest.raises(BadInputError, match=r"dtype.*endpoint"):
        parse(OpenAISettings, {"dtype": "float32"}, "backend openai")
    assert parse(OpenAISettings, {"dtype": "auto"}, "backend openai").dtype == "auto"


@pytest.mark.claims("judge.openai.asks", "judge.openai.retry_temperature", "judge.openai.timeout_s")
def test_how_a_judge_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with judging() as server:
        judge = make(server, tmp_path, monkeypatch, asks=2, retry_temperature=0.9)
        ask_panel(judge, to_judge("mute:1"), read)
        assert server.temperatures["mute:1"] == [0.0, 0.9]
        # What takes a second and a half comes in time where five are waited.
        late = list(make(server, tmp_path, monkeypatch, attempts=1, timeout_s=0.3).judge(to_judge("slow:1")))
        assert late[0].text is None
        server.asked["slow:1"] = 0
        in_time = list(make(server, tmp_path, monkeypatch, attempts=3, timeout_s=5).judge(to_judge("slow:2")))
        assert in_time[0].text and server.asked["slow:2"] == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_a_backend_would_not_use_is_refused(seed: int) -> None:
    """vLLM would take -1 for no seed."""
    with pytest.raises(BadInputError, match="for 'seed' of sampling"):
        parse(Sampling, {"seed": seed}, "sampling")


def answers(model: Path, pictures: list[ImageRef], sampling: dict[str, Any], **settings: Any) -> list[str]:
    """What transformers answers to two questions."""
    drawn = Sampling.model_validate({"max_new_tokens": 8, **sampling})
    asked = [Request(str(number), "base", "what is this", picture, drawn) for number, picture in enumerate(pictures)]
    with TransformersBackend(model, settings=TransformersSettings.model_validate(settings)) as backend:
        return [one.text for one in sorted(backend.generate(asked), key=lambda one: one.id)]


@pytest.mark.claims(
    "transformers sampling.temperature", "transformers sampling.top_p", "transformers sampling.seed",
    "transformers sampling.max_new_tokens",
)  # fmt: skip
def test_sampling_of_transformers(model: Path, pictures: list[ImageRef]) -> None:
    greedy = answers(model, pictures, {})
    drawn = answers(model, pictures, {"temperature": 5.0})
    assert drawn != greedy and drawn == answers(model, pictures, {"temperature": 5.0})
    assert answers(model, pictures, {"temperature": 5.0, "seed": 1}) != drawn
    assert answers(model, pictures, {"temperature": 5.0, "top_p": 1e-6}) == greedy, "only the likeliest token is left"
    lengths = [len(text.split()) for most in (2, 8) for text in answers(model, pictures, {"max_new_tokens": most})]
    assert max(lengths[:4]) <= 2 < max(lengths[4:])


@pytest.mark.claims("transformers sampling.temperature")
def test_every_token_can_be_drawn(model: Path, pictures: list[ImageRef]) -> None:
    """At a very high temperature all of them are about equally likely, and not fifty of them, as transformers has it unasked."""
    import torch

    seen: list[int] = []
    with TransformersBackend(model) as backend:
        real = backend.model.generate

        def generate(**options: Any) -> Any:
            made = real(**options, output_scores=True)
            seen.append(int(torch.isfinite(made.scores[0]).sum(-1).min()))
            return made

        backend.model.generate = generate
        drawn = Sampling(temperature=2.0, max_new_tokens=1)
        list(backend.generate([Request("1", "base", "what is this", pictures[0], drawn)]))
        assert seen == [backend.model.config.text_config.vocab_size]


def test_a_sampled_answer_of_transformers_is_the_same_in_any_batch(model: Path, pictures: list[ImageRef]) -> None:
    """An evaluation that is killed and resumed asks in other batches."""
    drawn = Sampling(temperature=5.0, max_new_tokens=8)
    asked = [Request(str(number), "base", "what is this", one, drawn) for number, one in enumerate(pictures)]
    asked.append(replace(asked[-1], id="another repetition"))
    with TransformersBackend(model, settings=TransformersSettings(dtype="float32")) as backend:
        whole, rest = ({one.id: one.text for one in backend.generate(some)} for some in (asked, asked[2:]))
    assert rest == {name: whole[name] for name in rest} and len(set(whole.values())) == len(asked)


def test_draws_of_transformers_follow_the_distribution() -> None:
    import torch

    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    draws = Draws(range(4000))
    scores = probabilities.log().expand(4000, 4)
    for _ in range(2):  # the second token's draws are others
        counts = draws(torch.empty(4000, 0), scores).argmax(-1).bincount(minlength=4)
        assert counts.tolist() == pytest.approx((4000 * probabilities).tolist(), abs=130)
        assert counts[3] == 0


@pytest.mark.claims("backend.transformers.dtype", "backend.transformers.batch_size")
def test_settings_of_transformers(model: Path, pictures: list[ImageRef]) -> None:
    for dtype in ("float32", "bfloat16"):
        with TransformersBackend(model, settings=TransformersSettings(dtype=dtype)) as backend:
            assert backend.provenance()["dtype"] == dtype == str(backend.model.dtype).removeprefix("torch.")
    sampling = Sampling(max_new_tokens=1)
    asked = [Request(str(number), "base", "what is this", one, sampling) for number, one in enumerate(pictures)]
    for size, calls in ((1, 4), (3, 2), (16, 1)):
        with TransformersBackend(model, settings=TransformersSettings(batch_size=size)) as backend:
            made: list[int] = []
            real = backend.model.generate

            def generate(real: Any = real, made: list[int] = made, **options: Any) -> Any:
                made.append(1)
                return real(**options)

            backend.model.generate = generate
            list(backend.generate(asked))
        assert len(made) == calls


def order(model: Path, **settings: Any) -> dict[str, Any]:
    """What the engine's process is told."""
    plain = {"base": str(model), "adapters": {}, "max_lora_rank": 0, "cores": []}
    return plain | VllmSettings.model_validate(settings).model_dump()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine of vLLM's process, with its arguments as vLLM takes them, and without what would start it."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    import vllm

    from harness.serving import vllm_worker

    taken: list[Any] = []

    class Started:
        class model_config:  # noqa: N801 (vLLM's name)
            dtype = "torch.float32"

    def start(arguments: Any) -> Any:
        taken.append(arguments)
        return Started

    monkeypatch.setattr(vllm.LLMEngine, "from_engine_args", staticmethod(start))

    def made(order: dict[str, Any], gpu: bool = False) -> Any:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        vllm_worker.Engine(order)
        return taken[-1]

    return made


@pytest.mark.slow
@needs_vllm
@pytest.mark.claims(
    "backend.vllm.dtype", "backend.vllm.max_model_len", "backend.vllm.max_num_seqs", "backend.vllm.gpu_memory_utilization",
    "backend.vllm.tensor_parallel_size", "backend.vllm.pipeline_parallel_size",
    "backend.vllm.distributed_executor_backend", "backend.vllm.quantization", "backend.vllm.kv_cache_gb",
)  # fmt: skip
def test_what_the_engine_of_vllm_is_given(engine: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    for name, value in (
        ("dtype", "bfloat16"),
        ("max_model_len", 77),
        ("max_num_seqs", 9),
        ("tensor_parallel_size", 2),
        ("pipeline_parallel_size", 3),
        ("distributed_executor_backend", "mp"),
        ("quantization", "fp8"),
    ):
        plain, given = engine(order(model)), engine(order(model, **{name: value}))
        assert getattr(given, name) == value != getattr(plain, name), name
    assert engine(order(model, gpu_memory_utilization=0.3), gpu=True).gpu_memory_utilization == 0.3
    engine(order(model, kv_cache_gb=3))
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "3"


@needs_vllm
@pytest.mark.claims(
    "vllm sampling.temperature", "vllm sampling.top_p", "vllm sampling.seed", "vllm sampling.max_new_tokens"
)
def test_what_vllm_samples_by() -> None:
    """The settings as they travel to the engine's process, and what vLLM makes of them there."""
    from harness.serving.vllm_worker import _parameters

    drawn = Sampling(temperature=0.7, top_p=0.4, seed=3, max_new_tokens=11)
    found = _parameters(**drawn.model_dump(), logprobs=None)
    assert (found.temperature, found.top_p, found.seed, found.max_tokens) == (0.7, 0.4, 3, 11)
    greedy = _parameters(**Sampling().model_dump(), logprobs=None)
    assert (greedy.temperature, greedy.top_k) == (0.0, 0) or greedy.temperature == 0.0


@pytest.mark.claims("backend.vllm.data_parallel_size")
def test_as_many_engines_as_are_wanted(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.serving import vllm as module

    started: list[Any] = []

    class Engine:
        """In the place of an engine's process: it says at once what it is."""

        def __init__(self, share: Any, environment: Any, said: Any) -> None:
            started.append(share)
            self.log, self._said = Path("engine.log"), said

        def load(self, order: Any) -> None:
            self._said.put((self, "{}"))

        def read(self, line: str) -> dict[str, Any]:
            return {}

        def end_input(self) -> None:
            """Nothing was begun."""

        wait = end_input

    monkeypatch.setattr(module, "EngineProcess", Engine)
    monkeypatch.setattr(module, "shares", lambda engines, workers: [object()] * engines)
    with module.VllmBackend(model, settings=VllmSettings(data_parallel_size=2)):
        assert len(started) == 2
