"""The core knows suites and methods by what they declare: it names none of ours, and a plugin's suite gets everything that ours get."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.core import registry
from harness.core.files import write_json, write_jsonl
from harness.core.plugins import Kind
from harness.records.manifest_file import ManifestRecord
from tests.commands import run_here
from tests.museum import ANSWERS, QUESTIONS, SOURCE, VERDICTS
from tests.plugins import installed
from tests.tiny import tiny_llava, tiny_pairs, tiny_photograph

ROOT = Path(__file__).resolve().parents[1]
HARNESS = ROOT / "harness"
WORDS = frozenset({"score", "unreadable"})
"""Metrics of ours whose ids are words of plain English, too."""
OTHERS = {
    ("harness/checkpoints/probes.py", "chair"),
    ("harness/generation/chair.py", "chair"),
    ("harness/cli/generate.py", "chair"),
    ("harness/generation/rewrite.py", "opa-dpo"),
}
"""A prompt about a piece of furniture; a judge of candidates, which is of another kind than suites and registered under its own name; the
paper of a judge, whose method is ours, too."""


def _builtin(kind: Kind) -> list[str]:
    return [name for name, entry in registry.entries(kind).items() if entry.builtin]


def _ours() -> set[str]:
    """Names of our suites, their metrics, and our methods."""
    suites = [registry.load("benchmarks", name)() for name in _builtin("benchmarks")]
    metrics = {spec.id for one in suites for spec in (*one.metrics, *(one.matched.metrics if one.matched else ()))}
    return {*_builtin("benchmarks"), *_builtin("aligners")} | metrics - WORDS


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every string of a source that is no docstring; of what is no Python, every line."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    tree = ast.parse(source)
    docs = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def test_the_core_names_no_suite_metric_or_method_of_ours() -> None:
    """Also in help texts and remedies: what is named there comes from the registry. Embedded worlds and data files may name some."""
    names = "|".join(map(re.escape, sorted(_ours(), key=len, reverse=True)))
    pattern = re.compile(rf"(?<![\w-])(?:{names})(?![\w-])", re.IGNORECASE)
    assert pattern.search("harness eval --suite halbench,amber") and pattern.search("chair_s(mfpo)")
    strings = []
    for path in sorted(path for kind in ("py", "js", "html", "css") for path in HARNESS.rglob(f"*.{kind}")):
        if (HARNESS / "worlds" / "pocket") in path.parents:
            continue
        place = str(path.relative_to(ROOT))
        for line, text in _texts(path):
            said = {one.lower() for one in pattern.findall(text)}
            strings += [f"{place}:{line}: {one}" for one in sorted(said) if (place, one) not in OTHERS]
    assert not strings, "\n".join(strings)


@pytest.fixture(scope="module")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A plugin's suite, evaluated for a model and an alignment of it by a plugin's backend."""
    folder = tmp_path_factory.mktemp("museum")
    site = installed(folder / "site", SOURCE, {"benchmarks.museum": "Museum", "backends.reader": "Reader"}).site
    (folder / "data" / "museum").mkdir(parents=True)
    tiny_photograph(folder / "data" / "museum" / "a.png", 0)
    rows = [{"id": name, "question": text, "picture": "a.png", "answer": truth} for name, text, truth in QUESTIONS]
    write_jsonl(folder / "data" / "museum" / "questions.jsonl", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        tiny_llava(folder / "honest")
        tiny_pairs(folder, 4)
        align = ("align", "--method", "dpo", "--model", "./honest", "--data", "rlaif-v.parquet", "--name", "inventive")
        ran(folder, *align, "--set", "train.batch_size=4", "--set", "train.max_length=256")
        for path, answers in zip(("honest", "results/inventive/checkpoint"), ANSWERS.values(), strict=True):
            said = {text: answer for (_, text, _), answer in zip(QUESTIONS, answers, strict=True)}
            write_json(folder / path / "said.json", said)
        ran(
            folder, "eval", "--suite", "museum", "--run", "inventive", "--base", "--data", "data", "--backend", "reader"
        )
        yield folder


def ran(folder: Path, *arguments: str) -> str:
    code, out, said = run_here(list(arguments), folder)
    assert code == 0, said
    return out


RUNS = {"honest": "base-honest", "inventive": "inventive"}
"""Checkpoint -> its run."""


@pytest.mark.slow
def test_a_plugins_suite_is_scored_offline(museum: Path) -> None:
    """With nothing written for it: the items of its own folder, and the answers of a run's log."""
    [answers] = museum.glob("results/inventive/evals/museum@*/responses.jsonl")
    said = ("score", "--suite", "museum", "--data", "data", "--responses", str(answers), "--json")
    [scores] = answers.parent.glob("scores*.json")
    record, evaluated = json.loads(ran(museum, *said)), json.loads(scores.read_text())
    assert record["counts"] == evaluated["counts"] and record["metrics"] == evaluated["metrics"]
    assert record["metrics"]["invention"]["value"] == pytest.approx(1 / 5)
    code, _, error = run_here([*said, "--relations", "x"], museum)
    assert code == 2 and "does not use --relations" in error
    write_jsonl(museum / "twice.jsonl", [{"item": "d1", "text": "vase"}] * 2)
    code, _, error = run_here(["score", "--suite", "museum", "--data", "data", "--responses", "twice.jsonl"], museum)
    assert code == 2 and "twice.jsonl:2" in error and "a second response for the item 'd1'" in error


def test_manifests_say_their_schema(museum: Path) -> None:
    """An aligned run's, which its checkpoint has, too, and one of a model that was only asked."""
    for place in ("inventive", "inventive/checkpoint", "base-honest"):
        manifest = json.loads((museum / "results" / place / "manifest.json").read_text())
        assert manifest["schema"] == ManifestRecord.KNOWN, place


def test_a_plugins_suite_has_its_frontier(museum: Path) -> None:
    said = ran(museum, "leaderboard", "--markdown")
    assert said.count("◆") >= 2 and "says more (covered) and hallucinates less (invented)" in said, said


def test_a_plugins_yes_and_no_are_compared(museum: Path) -> None:
    [found] = json.loads(ran(museum, "compare", *RUNS.values(), "--json"))["comparisons"]
    [pairing] = found["pairings"]
    # honest alone is right about the clock and the bowl; nobody else's are.
    assert (pairing["flips"]["only_first_right"], pairing["flips"]["only_other_right"]) == (2, 0)
    labels = {label for change in pairing["changes"] for label in change["new"]}
    assert labels == {"clock", "answer yes", "answer unreadable"}


def test_a_plugins_suite_is_in_the_report(museum: Path) -> None:
    ran(museum, "report", "-o", "report.html")
    page = (museum / "report.html").read_text()
    for caption in ("What is invented against what is covered: museum", "Right answers in the museum, "):
        assert caption in page
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    samples: list[dict[str, Any]] = json.loads(data)["samples"]
    verdicts: dict[str, list[str]] = {model: [] for model in ANSWERS}
    for (name, _, truth), sample in zip(QUESTIONS, samples, strict=True):
        assert sample["id"].endswith(name) and sample["truth"] == truth and sample["picture"]
        for answer in sample["answers"]:
            [model] = [model for model, run in RUNS.items() if run == answer["run"]]
            verdicts[model].append(answer["verdict"])
    assert verdicts == VERDICTS
