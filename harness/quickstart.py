"""The whole road once, on an embedded world: base model, alignment, serving, scoring, leaderboard. Also the README's experiment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness import registry
from harness.errors import BadInputError
from harness.files import read_json, read_jsonl
from harness.leaderboard import Board, collect
from harness.models import resolve
from harness.progress import console
from harness.runs.align import AlignRequest, run_align
from harness.runs.evaluate import EvalRequest, run_eval
from harness.runs.folders import Run, list_runs, open_run
from harness.runs.targets import target_of_model, target_of_run
from harness.serving.choose import choose_backend
from harness.worlds import find_world

WORLD = "pocket"


def run_quickstart(
    methods: Sequence[str], suites: str, seeds: Sequence[int], split: str, backend: str | None, results: Path
) -> list[Board]:
    """Run everything that is not done yet and return the leaderboard.

    A run that is complete is kept; one that was interrupted goes on.
    """
    for method in methods:
        registry.load("aligners", method)
    names = registry.names("benchmarks", suites)
    engine = choose_backend(backend)
    for seed in seeds:
        label = WORLD if seed == 0 else f"{WORLD}:{seed}"
        world = find_world(label)
        assert world is not None
        console.rule(f"[bold]{label}[/bold]")
        world.model()
        runs = [_aligned(method, label, seed, results) for method in methods]
        targets = [target_of_model(resolve(label), results), *(target_of_run(run) for run in runs)]
        run_eval(EvalRequest(targets, names, f"{label}@{split}", engine))
    return collect(results)


def _aligned(method: str, label: str, seed: int, results: Path) -> Run:
    name = f"{method}-{label.replace(':', '-')}"
    if (run := open_run(results / name)).manifest is not None:
        console.print(f"[dim]{name}: done before; remove {results / name} to do it again[/dim]")
        return run
    settings = {"train": {"seed": seed}}
    return run_align(
        AlignRequest(method, label, results, name=name, settings=settings, resume=(results / name).exists())
    )


def pooled(results: Path, split: str) -> list[dict[str, Any]]:
    """Object HalBench of every method over all seeds: mean over seeds with a 95 % interval, and each seed's spread.

    The interval resamples images within each seed; seeds are few, so their spread is shown beside it.
    """
    from harness.stats import Counts, resampled
    from harness.types import SampleScore

    benchmark = registry.load("benchmarks", "halbench")()
    shown = ("chair_s", "chair_i", "object_recall", "object_f1", "mean_length")
    found: dict[str, list[tuple[dict[str, float], dict[str, np.ndarray]]]] = defaultdict(list)
    for run in list_runs(results):
        for path in run.path.glob(f"evals/halbench@{WORLD}*-{split}/items-spacy.jsonl"):
            scores = [SampleScore(row["item"], row["group"], row["counts"]) for row in read_jsonl(path)]
            counts = Counts.of(scores)
            values = {name: float(value) for name, value in benchmark.aggregate(counts.totals()).items()}
            method = read_json(run.path / "manifest.json")["config"]["method"]
            found[method].append((values, dict(benchmark.aggregate(resampled(counts)))))
    if not found:
        raise BadInputError("Object HalBench was not scored", where=str(results))
    titles = {spec.id: spec.title for spec in benchmark.metrics}
    rows = []
    for method, seeds in sorted(found.items(), key=lambda pair: pair[0] != "base"):
        row: dict[str, Any] = {"method": method, "seeds": len(seeds)}
        for name in shown:
            factor = 1 if name == "mean_length" else 100
            points = np.array([value[name] for value, _ in seeds]) * factor
            low, high = np.percentile(np.mean([drawn[name] for _, drawn in seeds], axis=0) * factor, [2.5, 97.5])
            row[titles[name]] = (
                f"{points.mean():.1f} ({low:.1f}–{high:.1f}) ±{points.std(ddof=1) if len(points) > 1 else 0:.1f}"
            )
        rows.append(row)
    return rows
