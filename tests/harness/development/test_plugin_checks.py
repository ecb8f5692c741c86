"""`harness plugin check` finds the mistakes that a training or a score would make silently, and what `harness new` writes passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from aligners.base import Aligner, Loss
from benchmarks.base import Benchmark
from harness.core import registry
from harness.core.errors import BadInputError
from harness.core.types import NO_IMAGE, ImageRef, Item, MetricSpec, SampleScore
from harness.development import check_benchmark, check_method, new_plugin
from tests.commands import run_here


def method(loss: Any) -> type[Aligner]:
    """A method with this loss of (gap of the log-ratios, policy)."""

    class Mine(Aligner):
        name, summary, source = "mine", "a test", "this file"

        def loss(self, policy: Any, reference: Any) -> Loss:
            ratio = {name: policy[name].sums - reference[name].sums for name in ("chosen", "rejected")}
            return loss(ratio["chosen"] - ratio["rejected"], policy)

    return Mine


def safe(gap: Any) -> Any:
    return -torch.nn.functional.logsigmoid(gap)


@pytest.mark.parametrize("name", sorted(registry.entries("aligners")))
def test_our_methods_pass(name: str) -> None:
    assert len(check_method(registry.load("aligners", name))) == 4


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (lambda gap, policy: Loss(safe(gap - gap.mean())), "as the loss of an example that has .*, in"),
        (lambda gap, policy: Loss(safe(gap), {"rank": gap.argsort().float()}), "as the metric 'rank'"),
        (lambda gap, policy: Loss(safe(policy["chosen"].tokens.mean(-1) - gap)), "with more padding"),
        (lambda gap, policy: Loss(-torch.log(torch.sigmoid(gap))), "finite"),
        (lambda gap, policy: Loss(safe(gap).mean().expand(len(gap))), "as the loss of an example"),
        (lambda gap, policy: Loss(0 * gap), "a gradient of 0 everywhere"),
        (lambda gap, policy: Loss(safe(gap).sqrt() * 0 + (gap * 0).sqrt()), "not finite"),
        (lambda gap, policy: Loss(safe(gap).mean()), r"of the shape \[\] as per_example"),
    ],
)
def test_a_wrong_loss_is_found(loss: Any, reason: str) -> None:
    check_method(method(lambda gap, policy: Loss(safe(gap))))
    with pytest.raises(Exception, match=reason):
        check_method(method(loss))


class Suite(Benchmark):
    """Three questions about two pictures; right if the answer is the expected one."""

    name, title, source, max_new_tokens = "mine", "Mine", "this file", 8
    metrics = (MetricSpec("accuracy", "accuracy", higher_is_better=True),)

    def items(self, data: Path) -> list[Item]:
        image = [ImageRef(data / "a.png"), ImageRef(data / "b.png")]
        return [Item(str(n), "Which?", image[n % 2], str(n % 2), {"answer": "red"}) for n in range(6)]

    def score(self, items: Any, responses: Any, judge: Any = None) -> list[SampleScore]:
        return [SampleScore(one.id, one.group, {"right": responses[one.id].text == "red"}) for one in items]

    def aggregate(self, totals: Any) -> dict[str, Any]:
        return {"accuracy": totals["right"] / totals["n"]}


class Neighbours(Suite):
    def score(self, items: Any, responses: Any, judge: Any = None) -> list[SampleScore]:
        return [SampleScore(one.id, one.group, {"right": float(number)}) for number, one in enumerate(items)]


class Alone(Suite):
    def score(self, items: Any, responses: Any, judge: Any = None) -> list[SampleScore]:
        return [SampleScore(one.id, one.group, {"right": 1 / len(items)}) for one in items]


class Growing(Suite):
    def aggregate(self, totals: Any) -> dict[str, Any]:
        return {"accuracy": totals["right"] / (1 + totals["n"])}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Neighbours, "in another order"), (Alone, "alone, and"), (Growing, "of three times the same counts")],
)
def test_a_wrong_benchmark_is_found(kind: type[Suite], reason: str, data: Path) -> None:
    facts = check_benchmark(Suite(), data)
    assert len(facts) == 3 and facts[0] == "6 questions about 2 images, each image readable"
    with pytest.raises(TypeError, match=reason):
        check_benchmark(kind(), data)
    (data / "b.png").write_bytes(b"no picture")
    with pytest.raises(BadInputError, match="image"):
        check_benchmark(Suite(), data)


class InMemory(Suite):
    """A picture in memory, one in a data file, and a question without a picture."""

    contents = (b"", b"")

    def items(self, data: Path) -> list[Item]:
        first, second = self.contents
        images = [ImageRef(data=first), ImageRef(source=Cell(second)), NO_IMAGE]
        return [Item(str(n), "Which?", images[n % 3], str(n % 3), {"answer": "red"}) for n in range(6)]


@dataclass(frozen=True)
class Cell:
    content: bytes

    def read(self) -> bytes:
        return self.content


def test_every_image_of_a_benchmark_is_opened(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = (data / "a.png").read_bytes()
    Image.new("RGB", (9, 9)).save(data / "b.png")
    monkeypatch.setattr(InMemory, "contents", (good, (data / "b.png").read_bytes()))
    assert check_benchmark(InMemory(), data)[0] == "6 questions about 2 images, each image readable; 2 have no image"
    for contents in ((b"no picture", good), (good, b"no picture")):
        monkeypatch.setattr(InMemory, "contents", contents)
        with pytest.raises(BadInputError, match="image"):
            check_benchmark(InMemory(), data)
    (data / "b.png").write_bytes(b"no picture")  # of a question that is not scored
    with pytest.raises(BadInputError, match="image"):
        check_benchmark(Suite(), data, limit=1)


@pytest.mark.slow
@pytest.mark.parametrize("sort", ["method", "benchmark"])
def test_what_is_written_passes_as_written(sort: Any, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    files = new_plugin(sort, "my-own", folder)
    module = "harness_my_own"
    assert {str(file) for file in files} == {"README.md", "pyproject.toml", f"{module}.py", f"test_{module}.py"}
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {"PYTHONPATH": str(root), "HARNESS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr
    linted = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=folder, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout
    with pytest.raises(BadInputError, match="the folder exists"):
        new_plugin(sort, "my-own", folder)
    for name in ("My", "a_b", "class", "-a", "a/b"):
        with pytest.raises(BadInputError, match="cannot be the name"):
            new_plugin(sort, name, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.claims("new --output", "plugin check --data", "plugin check --limit")
def test_the_commands(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("HARNESS_CACHE", str(data / "cache"))
    assert "harness-mine/harness_mine.py" in said("new", "benchmark", "mine")
    assert "elsewhere/harness_mine.py" in said("new", "benchmark", "mine", "--output", "elsewhere")
    plugin = "elsewhere/harness_mine.py:Mine"
    assert "questions.jsonl" in said("plugin", "check", plugin, code=2)
    rows = [{"id": number, "image": f"{'ab'[number % 2]}.png", "question": "?", "answer": "red"} for number in range(6)]
    (data / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "ok  6 made-up answers" in said("plugin", "check", plugin, "--data", ".")
    assert "ok  3 made-up answers" in said("plugin", "check", plugin, "--data", ".", "--limit", "4")
    assert "--data is for benchmarks" in said("plugin", "check", "dpo", "--data", ".", code=2)


def said(*arguments: str, code: int = 0) -> str:
    """What a command prints."""
    ended, out, errors = run_here([*arguments])
    assert ended == code, errors
    return out + errors
