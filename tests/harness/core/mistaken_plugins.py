"""Plugins into which a mistake is put, the commands that use them, and what is to be said then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import run_here
from tests.plugins import VERSION, Plugin
from tests.tiny import tiny_llava, tiny_pairs, tiny_photograph

HEAD = """
from collections.abc import Iterator
from aligners.base import Aligner, AlignerSettings, Branch, Loss, Stage
from benchmarks.base import Benchmark, BenchmarkSettings
from harness.core.types import Evidence, ImageRef, Item, MetricSpec, SampleScore
from harness.core.worlds import World
from harness.judging.base import Judge, JudgeReply, JudgeRequest
from harness.judging.panel import ask
from harness.serving.base import Backend, Completion
from pydantic import field_validator
"""

METHOD = """
class Mine(Aligner):
    name, summary, source = "mine", "a method", "this file"
    # more
    def loss(self, policy, reference):
        gap = policy["chosen"].sums - policy["rejected"].sums
        # before
        return Loss(-gap)  # loss
"""

SUITE = """
class Mine(Benchmark):
    name, title, source, max_new_tokens = "mine", "Mine", "this file", 16
    metrics = (MetricSpec("accuracy", "Accuracy", higher_is_better=True, headline=True),)
    # more
    def items(self, data):
        found = [Item(str(n), f"question {n}", ImageRef(data / "a.png"), "a.png") for n in range(3)]
        return found  # items
    def score(self, items, responses, judge=None):
        # before
        found = [SampleScore(item.id, item.group, {"right": 1.0}) for item in items]
        return found  # score
    def aggregate(self, totals):
        return {"accuracy": totals["right"] / totals["n"]}  # aggregate
"""

ENGINE = """
class Engine(Backend):
    name = "engine"
    @classmethod
    def missing(cls):
        return None
    def start(self):
        pass
    def close(self):
        pass
    def provenance(self):
        return {"backend": "engine"}  # provenance
    def generate(self, requests):
        for request in requests:
            yield Completion(request.id, request.target, "yes", "stop", 3, 1)  # generate
"""

JUDGED = SUITE.replace("    # more", "    needs_judge = True\n    # more").replace(
    "        # before\n",
    """        asked = [JudgeRequest(item, responses[item.id], "rate it") for item in items]
        votes = ask(judge, asked, float)
""",
)

GRADER = """
class Grader(Judge):
    name = "grader"
    def provenance(self):
        return {"judge": "grader"}
    def judge(self, requests):
        for one in requests:
            yield JudgeReply(one.item.id, "1.0")  # judge
"""

WORLD = """
class Mine(World):
    name, summary, judge = "mine", "a world", "pocket-truth"
    # more
    def model(self):
        raise ZeroDivisionError("no model today")  # HERE
    def preferences(self, method="dpo"):
        return None
    def benchmarks(self, split):
        return None
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, pairs, and a suite's picture."""
    folder = tmp_path_factory.mktemp("mistakes")
    tiny_llava(folder / "base")
    tiny_pairs(folder, 4)
    (folder / "data" / "mine").mkdir(parents=True)
    tiny_photograph(folder / "data" / "mine" / "a.png", 0)
    return folder


ALIGN = [
    *("align", "--method", "mine", "--model", "./base", "--data", "rlaif-v.parquet", "--name", "mine", "--overwrite"),
    *("--set", "train.batch_size=4", "--set", "train.max_length=256", "--set", "train.learning_rate=1e-3"),
]
EVAL = [
    *("eval", "--suite", "mine", "--model", "./base", "--data", "data", "--backend", "engine"),
    *("--overwrite", "--results", "scored"),
]


def said_by(plugin: Plugin, command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command says with the plugin installed: it ends with 2, in a paragraph, and calls nothing a defect of ours."""
    monkeypatch.syspath_prepend(str(plugin.site))
    code, _, said = run_here(command, folder)
    assert code == 2, said
    assert "Traceback" not in said and "defect" not in said, said
    said = said[said.index("error: ") :]
    assert len(said) <= 2000
    return " ".join(said.split())


def check(said: str, plugin: Plugin, *words: str, place: str = "# HERE") -> None:
    assert f"of {plugin.distribution} {VERSION}" in said, said
    assert plugin.place(place) in said, said
    for word in words:
        assert word in said, said
