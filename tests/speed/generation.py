"""Measurements of `harness data generate` on the pocket world's shipped model, with the judge `chair` on the pictures' boxes.

`python -m tests.speed.generation FOLDER SAMPLES MODEL` asks the engine alone.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness.models import torchvision_shim
from tests.peak import peak_bytes

QUESTION = "Please describe this image in detail."
TEMPERATURE, NEW_TOKENS = 1.0, 128


@dataclass(frozen=True)
class Rates:
    """Answers per second, each of a whole process from its start to its end."""

    harness: float
    engine: float


def rates(prompts: int, samples: int, turns: int = 3) -> Rates:
    """The rates of `data generate`, from prompts to judged pairs on the disk, and of vLLM's engine on the same prompts without seeds.

    A turn is one of each, in changing order, and the medians count.
    """
    through, alone = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_prompts(folder, prompts)
        model = _model()
        for turn in range(turns):
            for ours in (False, True) if turn % 2 else (True, False):
                start = time.perf_counter()
                if ours:
                    _run(command(samples, f"pairs-{turn}"), folder)
                else:
                    _run([sys.executable, "-m", "tests.speed.generation", str(folder), str(samples), model])
                (through if ours else alone).append(prompts * samples / (time.perf_counter() - start))
            print(f"  turn {turn + 1}: {through[-1]:.1f} and {alone[-1]:.1f} answers/s", file=sys.stderr)
    return Rates(statistics.median(through), statistics.median(alone))


def growth(few: int, many: int) -> tuple[int, int]:
    """Peak memory in bytes of the command's own process for so many prompts, two short answers each."""
    peaks = []
    for count in (few, many):
        with tempfile.TemporaryDirectory() as temporary:
            write_prompts(Path(temporary), count)
            short = ["--set", "sample.max_new_tokens=24"]
            peaks.append(peak_bytes([*command(2, "pairs"), *short], Path(temporary)))
    return peaks[0], peaks[1]


def command(samples: int, output: str, backend: str = "vllm") -> list[str]:
    """`harness data generate` on the prompts of a folder."""
    return [
        sys.executable, "-m", "harness", "data", "generate", "pocket", "--prompts", "prompts.jsonl", "--judge", "chair",
        "-o", output, "--backend", backend, "--samples", str(samples), "--temperature", str(TEMPERATURE),
        "--set", f"sample.max_new_tokens={NEW_TOKENS}",
    ]  # fmt: skip


def write_prompts(folder: Path, count: int) -> None:
    """Drawn pictures with the boxes of what is in them, as preference data; their answers are not used."""
    from harness.worlds.pocket.draw import draw, png
    from harness.worlds.pocket.scenes import make_scenes

    with (folder / "prompts.jsonl").open("w") as stream:
        for number, scene in enumerate(make_scenes(0, "preference", count)):
            (folder / f"{number}.png").write_bytes(png(draw(scene)))
            objects = [{"label": thing.name, "box": list(map(float, thing.box))} for thing in scene.things]
            row = {"image": f"{number}.png", "question": QUESTION, "chosen": "A dog.", "rejected": "A cat."}
            stream.write(json.dumps(row | {"objects": objects}) + "\n")


def _model() -> str:
    from harness.models import resolve

    return resolve("pocket").locate()


def _run(arguments: list[str], folder: Path | None = None) -> None:
    environment = torchvision_shim.child_environment() | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def _engine_alone(folder: Path, samples: int, model: str) -> None:
    """The engine on the prompts that the harness has, each asked `samples` times, without seeds, judging and files."""
    import torch
    from vllm import LLM, SamplingParams

    from harness.core.types import ImageRef
    from harness.models import load_processor, prompt_text
    from harness.serving.vllm import VllmSettings

    gpu = torch.cuda.is_available()
    engine = LLM(
        model,
        dtype="auto" if gpu else "float32",
        limit_mm_per_prompt={"image": 1},
        enforce_eager=not gpu,
        max_num_seqs=VllmSettings().max_num_seqs,
    )
    text = prompt_text(load_processor(model), QUESTION)
    names = [json.loads(line)["image"] for line in (folder / "prompts.jsonl").read_text().splitlines()]
    asked = [
        {"prompt": text, "multi_modal_data": {"image": picture}}
        for picture in (ImageRef(path=folder / name).open() for name in names)
        for _ in range(samples)
    ]
    answers = engine.generate(asked, SamplingParams(temperature=TEMPERATURE, max_tokens=NEW_TOKENS), use_tqdm=False)
    assert len(answers) == len(names) * samples


if __name__ == "__main__":
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    _engine_alone(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
