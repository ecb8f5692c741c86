"""Run folders with scored descriptions, made without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.core.files import write_json
from harness.core.types import ImageRef, Item, Response
from harness.evaluation.score import item_rows, score_suite, write_scores


def items(count: int = 40) -> list[Item]:
    """Pictures of a dog each."""
    reference: dict[str, Any] = {"instances": ["dog"], "captions": []}
    return [Item(f"{n}#0", "Describe.", ImageRef(name=str(n)), str(n), reference) for n in range(count)]


def make_run(
    results: Path,
    name: str,
    texts: list[str],
    data: str = "pictures",
    config: dict[str, Any] | None = None,
    **about: Any,
) -> Path:
    """A run folder with scored descriptions."""
    from benchmarks.halbench import ObjectHalBench

    asked = items(len(texts))
    answers = {item.id: Response(item.id, text) for item, text in zip(asked, texts, strict=True)}
    serving = {"backend": "none", "device": "none"}
    more = {
        "target": name,
        "method": name,
        "model": "m",
        "data": data,
        "serving": serving,
        "sampling": {"max_new_tokens": 9},
    }
    record, scores = score_suite(ObjectHalBench(), asked, answers, about=more | about)
    folder = results / name
    write_scores(folder / "evals" / f"halbench@{data}", record, item_rows(asked, answers, scores))
    manifest: dict[str, Any] = {"kind": "base", "name": name, "base": {"label": "m"}}
    write_json(folder / "manifest.json", manifest | ({"config": config} if config else {}))
    return folder


def one_rate(value: float, low: float, high: float) -> dict[str, Any]:
    """A score record with one rate of Object HalBench on 40 pictures."""
    metric = {"value": value, "ci": [low, high], "title": "CHAIRs", "unit": "%", "headline": True}
    metric |= {"higher_is_better": False, "official": None}
    return {
        "suite": "halbench", "variant": "", "data": "toy", "model": "m", "method": "dpo", "settings": {},
        "n": 40, "of": 40, "unscored": 0, "judge": None, "metrics": {"chair_s": metric},
        "sampling": {"max_new_tokens": 9}, "serving": {"backend": "none"},
    }  # fmt: skip


def make_run_with_a_rate(results: Path) -> Path:
    """A run `one` with 40 scored descriptions, and a rate of 0.25 (0.125 to 0.5) of another suite."""
    folder = make_run(results, "one", ["a dog", "a cat and a dog", "a bird", "a horse"] * 10)
    rate = one_rate(0.25, 0.125, 0.5) | {"suite": "pope", "title": "POPE", "variant": "x"}
    write_json(folder / "evals/pope@pictures/scores-x.json", rate)
    return folder
