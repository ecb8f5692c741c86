"""`harness doctor --full`: a tiny random LLaVA is exported and served by every backend, in a separate process."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path

from harness.core.errors import HarnessError
from harness.core.types import ImageRef
from harness.doctor.line import Line
from harness.models import export_full
from harness.serving.base import Backend, Request, Sampling
from harness.serving.transformers import TransformersBackend
from harness.serving.vllm import VllmBackend
from harness.worlds.pocket.network import build_model, build_processor, build_tokenizer

_QUESTIONS = ("Describe this image.", "Is there a dog in the image?")


def main() -> None:
    """Print one JSON line per finding."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, picture = Path(temporary) / "model", Path(temporary) / "picture.png"
        _make(folder, picture)
        said: list[dict[str, str]] = []
        for kind in (TransformersBackend, VllmBackend):
            if kind.missing():
                continue
            start = time.perf_counter()
            try:
                answers = _answers(kind, folder, picture)
            except HarnessError as error:
                _say(Line(f"{kind.name} serves", "fail", error.problem, error.remedy or "make setup"))
                continue
            seconds = time.perf_counter() - start
            if said and answers != said[0]:
                words = f"answers {answers}, transformers {said[0]}"
                _say(Line(f"{kind.name} serves", "fail", words, "use --backend transformers, and report it"))
            else:
                _say(
                    Line(
                        f"{kind.name} serves",
                        "ok",
                        f"a tiny model answered a question about a picture, {seconds:.0f} s with its start",
                    )
                )
            said.append(answers)


def _say(line: Line) -> None:
    print(json.dumps(dataclasses.asdict(line)), flush=True)  # noqa: T201 (a child process: this is how it answers)


def _make(folder: Path, picture: Path) -> None:
    from PIL import Image

    tokenizer = build_tokenizer([*_QUESTIONS, "USER: \nASSISTANT:\n a dog and a cat are in the image."] * 4)
    export_full(build_model(tokenizer, 0), build_processor(tokenizer), folder)
    Image.effect_noise((72, 72), 80).convert("RGB").save(picture)


def _answers(kind: type[Backend], folder: Path, picture: Path) -> dict[str, str]:
    image = ImageRef(path=picture)
    requests = [Request(question, "base", question, image, Sampling(max_new_tokens=4)) for question in _QUESTIONS]
    # On a GPU, vLLM's own choice for these weights is half precision, and that of transformers is float32.
    with kind(folder, settings=kind.Settings(dtype="float32")) as backend:
        return {answer.id: answer.text for answer in backend.generate(requests)}
