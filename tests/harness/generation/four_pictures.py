"""`harness data generate` on four pictures, whose answers a scripted endpoint gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.core.files import write_jsonl
from harness.remote.endpoint import KEY_VARIABLE
from tests.commands import json_here
from tests.harness.generation.scripted import Asked, ScriptedEndpoint, scripted

COLOURS = ("red", "green", "blue", "white")
WORDS = ("dog", "cat", "car", "cup", "bus", "bird")
"""What the model may name, by its seed; only a dog and a cat are in the pictures."""
QUESTION = "What is shown?"


def say(asked: Asked) -> str:
    if asked.seed is None:
        return "A probe."
    names = [WORDS[asked.seed % 6], WORDS[asked.seed // 6 % 6], WORDS[asked.seed // 36 % 6]]
    return f"There is a {names[0]}, a {names[1]} and a {names[2]}."


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    with scripted(say) as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures with boxes, as preference data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(KEY_VARIABLE, "sk-test")
    for number, colour in enumerate(COLOURS, 1):
        Image.new("RGB", (24, 24), colour).save(tmp_path / name_of(number))
    write_jsonl(tmp_path / "prefs.jsonl", [row(number) for number in range(1, 5)])
    return tmp_path


def name_of(number: int) -> str:
    return f"{number:012}.png"


def row(number: int) -> dict[str, Any]:
    objects = [{"label": name, "box": [1.0, 1.0, 9.0, 9.0]} for name in ("dog", "cat")]
    return {
        "id": f"p{number}",
        "image": name_of(number),
        "prompt": QUESTION,
        "chosen": "A",
        "rejected": "B",
        "objects": objects,
    }


def run(endpoint: ScriptedEndpoint | None, *more: str, code: int = 0, model: str = "vlm", **other: str) -> Any:
    """The manifest; or what is said where it fails."""
    options = {"prompts": "prefs.jsonl", "judge": "chair", "output": "pairs", "samples": "6"} | other
    named = [part for key, value in options.items() for part in (f"--{key}", value)]
    where = ["--endpoint", endpoint.url] if endpoint else []
    return json_here("data", "generate", model, *named, *where, *more, code=code)


def rows(folder: str = "pairs") -> list[dict[str, Any]]:
    return [row for path in sorted(Path(folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def asked(endpoint: ScriptedEndpoint) -> list[Asked]:
    return [one for one in endpoint.asked if one.text == QUESTION]
