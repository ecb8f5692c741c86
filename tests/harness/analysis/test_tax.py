"""What alignment gained on hallucination and cost elsewhere: the right side, the right sign, and what cannot be said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import harness
from benchmarks.base import Benchmark
from benchmarks.mme import MME
from benchmarks.mmstar import MMStar
from benchmarks.pope import POPE
from harness.core import registry
from harness.core.errors import UnknownNameError
from harness.core.files import write_json
from harness.core.types import ImageRef, Item, Response
from harness.evaluation.score import item_rows, score_suite, write_scores
from tests.commands import run_here

Answer = Callable[[int], str]


def items_of(suite: Benchmark) -> list[Item]:
    """A hundred questions; the right answer is yes, or A."""
    made = []
    for n in range(100):
        reference = {"split": "random", "label": "yes"}
        if isinstance(suite, MMStar):
            reference = {"answer": "A", "category": "math", "l2_category": "geometry", "options": {}}  # type: ignore[dict-item]
        if isinstance(suite, MME):
            tasks = ("existence", "count", "position", "color")
            reference = {"task": tasks[n // 2 % 4], "label": ("yes", "no")[n % 2]}
        made.append(Item(str(n), "Q?", ImageRef(name=str(n // 2)), str(n // 2), reference))
    return made


def run(results: Path, name: str, answers: dict[type[Benchmark], Answer], method: str = "dpo") -> None:
    for kind, answer in answers.items():
        suite = kind()
        items = items_of(suite)
        said = {item.id: Response(item.id, answer(n)) for n, item in enumerate(items)}
        about = {
            "target": name, "method": method, "model": "m", "data": "official",
            "serving": {"backend": "vllm", "distribution": "vllm 0.32.0", "device": "cpu"},
            "sampling": {"temperature": 0.0, "max_new_tokens": 16},
        }  # fmt: skip
        record, scores = score_suite(suite, items, said, about=about)
        write_scores(results / name / "evals" / f"{suite.name}@official", record, item_rows(items, said, scores))
    manifest = {
        "kind": "base" if method == "base" else "align", "name": name,
        "config": {"model": "m", "method": method, "data": "d", "settings": {"train": {"seed": 0}, "method": {}}},
        "base": {"label": "m", "location": "m", "fingerprint": "0"},
        "finished": "2026-11-25T19:11:08.110+00:00", "harness": harness.__version__,
    }  # fmt: skip
    write_json(results / name / "manifest.json", manifest)


def yes_until(count: int) -> Answer:
    return lambda n: "Yes" if n < count else "No"


def a_until(count: int) -> Answer:
    return lambda n: "A" if n < count else "B"


def right_until(count: int) -> Answer:
    return lambda n: ("Yes", "No")[n % 2] if n < count else "?"


@pytest.fixture
def results_root(tmp_path: Path) -> Path:
    run(tmp_path / "results", "start", {POPE: yes_until(50), MMStar: a_until(80), MME: right_until(50)}, "base")
    run(tmp_path / "results", "duller", {POPE: yes_until(90), MMStar: a_until(40), MME: right_until(90)})
    run(tmp_path / "results", "partly", {POPE: yes_until(50)})
    return tmp_path


def test_gains_and_losses(results_root: Path) -> None:
    code, out, said = run_here(["leaderboard", "--tax", "--json"], results_root)
    assert code == 0, said
    [board] = json.loads(out)["boards"]
    rows = {row["checkpoint"]: row for row in board["rows"]}
    assert list(rows) == ["duller", "partly"], "the base has no row"
    gained, lost = rows["duller"]["hallucination"], rows["duller"]["elsewhere"]
    assert gained["metrics"]["pope.random.accuracy"]["gain"] == pytest.approx(0.4)
    assert gained["metrics"]["mme.score.hallucination"]["verdict"] == "better", (
        "a metric of another group than its suite"
    )
    accuracy = lost["metrics"]["mmstar.accuracy"]
    assert accuracy["gain"] == pytest.approx(-0.4) and accuracy["verdict"] == "worse" and accuracy["n"] == 100
    assert accuracy["ci"][0] < -0.4 < accuracy["ci"][1] < 0
    assert (lost["better"], lost["worse"]) == (0, len(lost["metrics"]))
    assert rows["partly"]["hallucination"]["metrics"]["pope.random.accuracy"]["verdict"] == "no difference"
    assert rows["partly"]["elsewhere"]["metrics"] == {}
    code, out, _ = run_here(["leaderboard", "--tax", "--suite", "general"], results_root)
    assert code == 0 and "MMStar" in out and "POPE" not in out and "−40.0▼" in out
    code, out, _ = run_here(["leaderboard", "--tax", "--suite", "pope"], results_root)
    assert code == 0 and "no metric of anything but hallucination was scored" in out.replace("\n", " ")


def test_groups_stand_for_their_suites() -> None:
    assert registry.names("benchmarks", "general") == ["mme", "mmstar", "llava-bench", "mm-vet"]
    assert registry.names("benchmarks", "pope,general,mme")[:2] == ["pope", "mme"]
    assert "hallusionbench" in registry.names("benchmarks", "hallucination")
    with pytest.raises(UnknownNameError):
        registry.names("benchmarks", "generall")
