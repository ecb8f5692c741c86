"""Measurements of serving: what the harness costs above vLLM's own engine, and what the order of requests is worth.

Every engine runs in a process of its own: `python -m tests.speed.serving direct|order FOLDER REQUESTS`.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.core.types import ImageRef
from harness.models import torchvision_shim
from harness.serving.base import Request, Sampling
from tests.tiny import tiny_llava, tiny_llava_576, tiny_photograph

QUESTIONS_POPE, QUESTIONS_AMBER = 6, 15
_CACHED_SHARE = 0.2
"""Of the images, how many the key-value cache holds at once: a 7 B model on 80 GB holds about 190 of AMBER's 1,004."""
_NOISE = 0.05
"""What the engine alone may be slower than through the harness before the comparison is taken for void."""
_TURNS = 3
LEAST_IMAGES = 35
_LEAST_BLOCKS = 32
"""For four requests at once; `LEAST_IMAGES` have them."""
_BLOCK = 128
_NEW_TOKENS = 8


def overhead(count: int, turns: int = 7) -> float:
    """Seconds of the harness, from its first request to the last answer on disk, over seconds of the engine alone, minus 1.

    Both end with texts: the engine alone as vLLM makes them by default, token by token, the harness once an answer. A turn is one of each,
    in changing order, and the median of the turns' ratios counts: a machine's speed drifts by more than is measured here, and neighbours
    in time have the same one.

    Raises:
        RuntimeError: the engine was much faster through the harness than alone, which cannot be: nothing was measured.
    """
    alone, through = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tiny_llava(folder / "base")
        _write_pope(folder, count)
        for turn in range(turns):
            for ours in (False, True) if turn % 2 else (True, False):
                if ours:
                    through.append(_through_harness(folder, count, f"results-{turn}"))
                else:
                    alone.append(_child("direct", folder, count)["seconds"])
            print(f"  turn {turn + 1}: harness {through[-1]:.1f} s, engine alone {alone[-1]:.1f} s", file=sys.stderr)
    ratio = statistics.median(ours / theirs for ours, theirs in zip(through, alone, strict=True))
    if ratio < 1 - _NOISE:
        raise RuntimeError(
            f"not a measurement: the engine alone took {alone} s, through the harness {through} s; the machine is busy, or the "
            "two do not do the same work"
        )
    return ratio - 1


def _through_harness(folder: Path, count: int, results: str) -> float:
    command = [sys.executable, "-m", "harness", "eval", "--model", "./base", "--data", "data", "--suite", "pope"]
    options = ["--backend", "vllm", "--set", f"sampling.max_new_tokens={_NEW_TOKENS}", "--results", results, "--json"]
    done = subprocess.run([*command, *options], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    [record] = json.loads(done.stdout)
    assert record["serving"]["took"]["answers"] == count
    return float(record["serving"]["took"]["seconds"])


def grouped_over_shuffled(images: int) -> float:
    """Throughput of requests grouped by image over that of the same requests shuffled: 15 questions an image, 576 image tokens."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tiny_llava_576(folder / "base")
        for number in range(images):
            tiny_photograph(folder / f"{number}.png", number, (336, 336))
        seconds = _child("order", folder, images)
        return seconds["shuffled"] / seconds["grouped"]


def _write_pope(folder: Path, count: int) -> None:
    images = folder / "data" / "pope" / "images"
    images.mkdir(parents=True)
    rows = []
    for number, request in enumerate(_requests(images, count)):
        label = ("yes", "no")[number % 2]
        assert request.image.path
        row = {"question_id": number, "image": request.image.path.name, "text": request.prompt, "label": label}
        rows.append(json.dumps(row) + "\n")
    for number in range(-(-count // QUESTIONS_POPE)):
        tiny_photograph(images / f"{number}.png", number)
    (folder / "data" / "pope" / "coco_pope_random.json").write_text("".join(rows))


def _requests(images: Path, count: int) -> list[Request]:
    sampling = Sampling(max_new_tokens=_NEW_TOKENS)
    return [
        Request(str(n), "base", f"Is there a dog, {n}?", ImageRef(path=images / f"{n // QUESTIONS_POPE}.png"), sampling)
        for n in range(count)
    ]


def _child(what: str, folder: Path, count: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.speed.serving", what, str(folder), str(count)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=torchvision_shim.child_environment()
        | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _engine(base: Path, **options: Any) -> Any:
    """The engine as the harness starts it on this machine."""
    import torch
    from vllm import EngineArgs, LLMEngine

    gpu = torch.cuda.is_available()
    arguments = EngineArgs(
        model=str(base),
        dtype="auto" if gpu else "float32",
        limit_mm_per_prompt={"image": 1},
        disable_log_stats=True,
        enforce_eager=not gpu,
        **options,
    )
    return LLMEngine.from_engine_args(arguments)


def _answer(engine: Any, prompts: list[tuple[str, Any]]) -> float:
    """Seconds in which an engine answers (prompt, image)s that are given to it at once."""
    from vllm import SamplingParams

    start, parameters = time.perf_counter(), SamplingParams(temperature=0.0, max_tokens=_NEW_TOKENS)
    for number, (text, picture) in enumerate(prompts):
        engine.add_request(str(number), {"prompt": text, "multi_modal_data": {"image": picture}}, parameters)
    left = len(prompts)
    while left:
        left -= sum(output.finished for output in engine.step())
    return time.perf_counter() - start


def _direct(folder: Path, count: int) -> dict[str, float]:
    """The engine alone on the prompts and pictures that the harness will have; reading the pictures is part of it."""
    from harness.models import load_processor, prompt_text
    from harness.serving.vllm import VllmSettings

    engine = _engine(folder / "base", max_num_seqs=VllmSettings().max_num_seqs)
    processor = load_processor(folder / "base")
    start, pictures, prompts = time.perf_counter(), {}, []
    for request in _requests(folder / "data" / "pope" / "images", count):
        path = request.image.path
        pictures[path] = pictures.get(path) or request.image.open()
        prompts.append((prompt_text(processor, request.prompt), pictures[path]))
    read = time.perf_counter() - start
    return {"seconds": read + _answer(engine, prompts)}


def _order(folder: Path, images: int) -> dict[str, float]:
    """AMBER's shape in both orders, with a cache that holds a part of the images as it does at full size."""
    from harness.models import PromptLengths, load_processor, prompt_text

    processor = load_processor(folder / "base")
    pictures = [ImageRef(path=folder / f"{number}.png").open() for number in range(images)]
    questions = [f"Is there a dog in the image, number {number}?" for number in range(QUESTIONS_AMBER)]
    lengths = PromptLengths(processor)
    assert lengths.image_tokens(pictures[0].size) == 575, "the image takes other than 576 tokens"
    length = lengths.length(questions[0], pictures[0].size)
    blocks = round(images * _CACHED_SHARE) * -(-(length + _NEW_TOKENS) // _BLOCK)
    assert blocks >= _LEAST_BLOCKS, (
        f"with {images} images the cache would hold more than its share: take {LEAST_IMAGES}"
    )
    engine = _engine(
        folder / "base", max_num_seqs=4, max_model_len=1024, num_gpu_blocks_override=blocks, block_size=_BLOCK
    )
    prompts = [(prompt_text(processor, question), picture) for picture in pictures for question in questions]
    shuffled = random.Random(0).sample(prompts, len(prompts))
    _answer(engine, prompts[:4])
    taken: dict[str, list[float]] = {"grouped": [], "shuffled": []}
    for _ in range(_TURNS):  # in turns, and the best of each: other work on the machine only ever adds time
        for name, order in (("grouped", prompts), ("shuffled", shuffled)):
            assert engine.reset_prefix_cache(), "the prefix cache was in use"
            taken[name].append(_answer(engine, order))
    return {name: min(seconds) for name, seconds in taken.items()}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints goes to standard error
    work = {"direct": _direct, "order": _order}[sys.argv[1]]
    print(json.dumps(work(Path(sys.argv[2]), int(sys.argv[3]))), file=answers, flush=True)
