"""The engine's process: `python -m harness.serving.vllm_worker CORES`, driven by `harness.serving.vllm` over standard input and output."""

from __future__ import annotations

import functools
import importlib
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

from harness.core.errors import BadInputError
from harness.serving.base import likeliest
from harness.serving.beginnings import Beginnings
from harness.serving.worker_protocol import WINDOW_IMAGES, bad_input_to_json, image_from_json

PROBES = ("Describe this image.", "What is in the image?", "Is there a person in the image?", "What color is it?")

_NEEDED = ("torch", "vllm.engine.arg_utils", "vllm.v1.engine.llm_engine", "vllm.lora.request", "harness.models")
"""Modules that take long to import, of those that `Engine` uses."""


def main() -> int:
    """Import vLLM, read the order, start the engine, and answer requests until the input ends. The harness can look at its requests while
    vLLM is imported, and gives the order when it has."""
    # vLLM's output must not mix with the answers: standard output is only for them, everything else goes to the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if cores := json.loads(sys.argv[1]):
        _bind(cores)
    broken = _import()
    order = json.loads(sys.stdin.readline())
    try:
        if broken is not None:
            raise broken
        engine = Engine(order)
        engine.check_adapters()
    except Exception as error:
        _say(answers, {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:600]})
        answers.flush()
        raise
    _say(answers, engine.info)
    answers.flush()
    engine.run(_lines(sys.stdin), answers)
    if order["tensor_parallel_size"] == order["pipeline_parallel_size"] == 1:
        # Nobody but this process has a part of the model, and Python would spend seconds on taking it apart.
        sys.stderr.flush()
        os._exit(0)
    return 0


def _import() -> Exception | None:
    """Import what the engine needs; returns the error."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    try:
        for name in _NEEDED:
            importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 (said in answer to the order)
        return error
    return None


def _say(answers: IO[str], value: dict[str, Any]) -> None:
    answers.write(json.dumps(value, ensure_ascii=False) + "\n")


def _refusal(row: dict[str, Any], error: Exception) -> dict[str, Any]:
    """The answer to a request that cannot be answered."""
    empty = {"text": "", "finish_reason": "unknown", "prompt_tokens": 0, "completion_tokens": 0}
    return {
        "id": row["id"],
        "target": row["target"],
        **empty,
        "refused": getattr(error, "problem", str(error)).splitlines()[0][:300],
    }


def _details(output: Any) -> dict[str, list[Any]]:
    """The tokens of a request and its answer, and the answer's log-probabilities."""
    answer = output.outputs[0]
    steps = zip(answer.token_ids, answer.logprobs, strict=True)
    return {
        "prompt_ids": list(output.prompt_token_ids),
        "token_ids": list(answer.token_ids),
        "logprobs": [float(step[token].logprob) for token, step in steps],
    }


def _lines(stream: IO[str]) -> queue.Queue[dict[str, Any] | None]:
    """Read standard input in a thread, so that the engine can step while requests arrive."""
    arrived: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def read() -> None:
        for line in stream:
            arrived.put(json.loads(line))
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    return arrived


def _bind(cores: list[list[int]]) -> None:
    """Bind to the cores of this engine's workers; otherwise several engines would each start a thread on every core.

    Affinity and number of threads are for a worker in this process; the environment variable is for workers that vLLM starts and binds.
    """
    import torch

    own = [core for worker in cores for core in worker]
    os.sched_setaffinity(0, own)
    torch.set_num_threads(min(torch.get_num_threads(), len(own)))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "|".join(",".join(map(str, worker)) for worker in cores))


@functools.cache
def _parameters(
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    seed: int,
    logprobs: int | None,
    tokens: tuple[int, ...] = (),
    stop: tuple[str, ...] = (),
) -> Any:
    """vLLM's own sampling parameters: one object for all requests with equal parameters. `tokens` get log-probabilities, too."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_new_tokens,
        seed=seed if temperature else None,
        logprobs=logprobs,
        logprob_token_ids=list(tokens) or None,
        detokenize=bool(stop),  # `Engine.text` does this, once per answer; vLLM compares texts with `stop`
        stop=list(stop),
        include_stop_str_in_output=True,
    )


class Engine:
    """vLLM's engine with the base and its adapters."""

    def __init__(self, order: dict[str, Any]) -> None:
        import torch

        gpu = torch.cuda.is_available()
        if not gpu:
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(order["kv_cache_gb"])
        from vllm import EngineArgs, LLMEngine
        from vllm.lora.request import LoRARequest
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        from harness.models import first_tokens, load_processor, text_options
        from harness.serving import cpu_lora, cpu_seeds

        if not gpu:
            cpu_seeds.apply()
            if order["adapters"]:
                cpu_lora.apply()

        self.processor = load_processor(order["base"])
        self.beginnings = functools.cache(Beginnings)  # made when first needed
        self.begun: dict[tuple[str, str], str] = {}
        """(target, id) of an open request -> the beginning of its answer, if it has one."""
        self.text_options = text_options(self.processor)
        self.tokens_of = functools.cache(lambda choices: tuple(first_tokens(self.processor, choices)))
        self.parse = parse_model_prompt
        self.last: tuple[str, Any, Any] | None = None
        """Text, picture and rendered prompt of the last request."""
        self.compared: dict[tuple[str, str], tuple[str, ...]] = {}
        """(target, id) of an open request -> the answers whose likelihoods are compared."""
        self.adapters = {
            name: LoRARequest(name, number + 1, folder)
            for number, (name, folder) in enumerate(order["adapters"].items())
        }
        dtype = order["dtype"] if order["dtype"] != "auto" or gpu else "float32"
        options: dict[str, Any] = {
            "model": order["base"],
            "dtype": dtype,
            "max_num_seqs": order["max_num_seqs"],
            "limit_mm_per_prompt": {"image": 1},
            "disable_log_stats": True,
            "enforce_eager": not gpu,
            "tensor_parallel_size": order["tensor_parallel_size"],
            "pipeline_parallel_size": order["pipeline_parallel_size"],
            "trust_remote_code": False,  # a model folder's Python code is never run
        }
        if gpu:
            options["gpu_memory_utilization"] = order["gpu_memory_utilization"]
        for name in ("max_model_len", "quantization", "distributed_executor_backend"):
            if order[name] is not None:
                options[name] = order[name]
        if self.adapters:
            options |= {
                "enable_lora": True,
                "max_lora_rank": order["max_lora_rank"],
                "max_loras": len(self.adapters),
            }
        self.engine = LLMEngine.from_engine_args(EngineArgs(**options))
        computed_in = str(self.engine.model_config.dtype).removeprefix("torch.")
        self.info = {"device": "gpu" if gpu else "cpu", "dtype": computed_in, "adapters": sorted(self.adapters)}

    def add(self, row: dict[str, Any], picture: Any, logprobs: int | None = None) -> None:
        """Queue one request; the engine's id contains the target, because ids repeat between targets."""
        from harness.models import prompt_text

        if choices := row.get("choices"):
            sampling = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 1, "seed": 0}
            parameters = _parameters(**sampling, logprobs=None, tokens=self.tokens_of(tuple(choices)))
        else:
            parameters = _parameters(**row["sampling"], logprobs=logprobs, stop=tuple(row.get("stop", ())))
        text = prompt_text(self.processor, row["prompt"], image=picture is not None)
        if beginning := row.get("beginning"):
            text += self.beginnings(self.processor).written(beginning)
            self.begun[row["target"], row["id"]] = beginning
        self.engine.add_request(
            json.dumps([row["target"], row["id"]]),
            self._rendered(text, picture),
            parameters,
            lora_request=self.adapters.get(row["target"]),
        )
        if choices:
            self.compared[row["target"], row["id"]] = tuple(choices)

    def _rendered(self, text: str, picture: Any) -> Any:
        """A prompt's token ids and the processed picture. If several answers to one prompt are sampled, it is prepared once, which is a
        quarter of the work for a small model.

        Only the last one is kept: vLLM's cache of pictures has two sides, which must see pictures in the same order.
        """
        if self.last is None or self.last[0] != text or self.last[1] is not picture:
            prompt: dict[str, Any] = {"prompt": text}
            if picture is not None:
                prompt["multi_modal_data"] = {"image": picture}
            renderer = self.engine.renderer
            options = renderer.default_cmpl_tok_params.with_kwargs(**self.text_options)
            [rendered] = renderer.render_cmpl([self.parse(self.engine.model_config, prompt)], options)
            self.last = text, picture, rendered
        return self.last[2]

    def finished(self) -> Iterator[Any]:
        """Step once; yield the requests that it finished."""
        for output in self.engine.step():
            if output.finished:
                yield output

    def check_adapters(self) -> None:
        """Refuse an adapter whose log-probabilities on all probes equal the base's: it is not applied."""
        from PIL import Image

        if not self.adapters:
            return
        picture = Image.effect_noise((64, 64), 80).convert("RGB")
        sampling = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 4, "seed": 0}
        for target in ("base", *self.adapters):
            for number, probe in enumerate(PROBES):
                self.add(
                    {"id": str(number), "target": target, "prompt": probe, "sampling": sampling}, picture, logprobs=1
                )
        seen: dict[str, list[Any]] = {}
        while self.engine.has_unfinished_requests():
            for output in self.finished():
                target, number = json.loads(output.request_id)
                answer = output.outputs[0]
                seen.setdefault(target, []).append(
                    (number, tuple(answer.token_ids), round(float(answer.cumulative_logprob or 0), 4))
                )
        for name in self.adapters:
            if sorted(seen[name]) == sorted(seen["base"]):
                raise RuntimeError(
                    f"the adapter '{name}' changes nothing: vLLM does not apply it, or it was not trained"
                )

    def text(self, request: tuple[str, str], token_ids: Any) -> str:
        """The text decoded at once, as transformers does; vLLM decodes token by token, and leaves out incomplete characters."""
        if beginning := self.begun.pop(request, None):
            return self.beginnings(self.processor).whole(beginning, token_ids)
        text: str = self.processor.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text.strip()

    def answer(self, output: Any) -> dict[str, Any]:
        """What is sent about a finished request."""
        target, name = json.loads(output.request_id)
        said = output.outputs[0]
        common = {"id": name, "target": target, "prompt_tokens": len(output.prompt_token_ids)}
        if choices := self.compared.pop((target, name), None):
            [step] = said.logprobs
            likelihoods = [float(step[token].logprob) for token in self.tokens_of(choices)]
            more = {"finish_reason": "stop", "completion_tokens": 1, "likelihoods": likelihoods}
            return common | more | {"text": likeliest(choices, likelihoods)}
        return {
            **common,
            "text": self.text((target, name), said.token_ids),
            "finish_reason": said.finish_reason if said.finish_reason in ("stop", "length") else "unknown",
            "completion_tokens": len(said.token_ids),
            **({"details": _details(output)} if said.logprobs else {}),
        }

    def run(self, arrived: queue.Queue[dict[str, Any] | None], answers: IO[str]) -> None:
        """Read requests as they arrive and write answers as they finish, until the input ends or a picture cannot be decoded."""
        pictures: dict[str, Any] = {}
        while True:
            busy = self.engine.has_unfinished_requests()
            while not busy or not arrived.empty():
                row = arrived.get()
                if row is None:
                    return
                if "image_key" in row:
                    image = image_from_json(row["image"])
                    try:
                        pictures[row["image_key"]] = None if image.absent else image.open()
                    except BadInputError as error:
                        _say(answers, bad_input_to_json(error))
                        answers.flush()
                        return
                    if len(pictures) > WINDOW_IMAGES:
                        pictures.pop(next(iter(pictures)))
                else:
                    try:
                        self.add(row, pictures[row["image"]], logprobs=1 if row["details"] else None)
                        busy = True
                    # vLLM's error for a request that does not fit into the context, or ours for a control token
                    except (ValueError, BadInputError) as error:
                        _say(answers, _refusal(row, error))
                        answers.flush()
            for output in self.finished():
                _say(answers, self.answer(output))
            answers.flush()  # once per step: every flush wakes the harness, which then uses a core of the engine


if __name__ == "__main__":
    sys.exit(main())
