"""All steps on an embedded world: base model, alignment, serving, scoring, leaderboard. Also the README's experiment."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from harness.alignment.align import AlignRequest, run_align
from harness.analysis.leaderboard import Board, collect
from harness.core import registry
from harness.core.denormals import flushed_denormals
from harness.core.worlds import find_world
from harness.evaluation.evaluate import run_eval
from harness.evaluation.request import EvalRequest
from harness.models import resolve
from harness.runs.folders import Run, open_run
from harness.runs.targets import target_of_model, target_of_run
from harness.serving.choose import choose_backend

logger = logging.getLogger(__name__)

WORLD = "pocket"


def run_quickstart(
    methods: Sequence[str] | None,
    suites: str | None,
    seeds: Sequence[int],
    split: str,
    backend: str | None,
    results: Path,
) -> list[Board]:
    """Run all remaining steps and return the leaderboard.

    Complete runs are kept; interrupted ones are resumed. By default, methods and suites are the world's.
    """
    kind = registry.load("worlds", WORLD)
    methods = kind.methods if methods is None else methods
    for method in methods:
        registry.load("aligners", method)
    names = registry.names("benchmarks", suites or ",".join(kind.suites))
    engine = choose_backend(backend)
    for seed in seeds:
        label = WORLD if seed == 0 else f"{WORLD}:{seed}"
        world = find_world(label)
        assert world is not None
        logger.info(f"world {label}")
        with flushed_denormals():  # unpacking the model starts torch's threads
            world.model()
            runs = [_aligned(method, label, seed, results) for method in methods]
        targets = [target_of_model(resolve(label), results), *(target_of_run(run) for run in runs)]
        run_eval(EvalRequest(targets, names, f"{label}@{split}", engine))
    return collect(results)


def _aligned(method: str, label: str, seed: int, results: Path) -> Run:
    name = f"{method}-{label.replace(':', '-')}"
    if (run := open_run(results / name)).manifest is not None:
        logger.info(f"{name}: already done; remove {results / name} to run it again")
        return run
    settings = {"train": {"seed": seed}}
    return run_align(
        AlignRequest(method, label, results, name=name, settings=settings, resume=(results / name).exists())
    )
