"""How an experiment scores its suites: their settings, and the judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.core import registry
from harness.core.config import parse
from harness.core.worlds import find_world
from harness.experiments.evaluated import Scoring
from harness.experiments.keys import grouped
from harness.experiments.spec import Experiment
from harness.experiments.step import located
from harness.serving.base import Sampling


def scorings_of(experiment: Experiment, data: str) -> dict[str, Scoring]:
    """How an experiment scores its suites, by the suite's name.

    Args:
        experiment: as it was read.
        data: its benchmark data, as for `eval --data`; an embedded world has a judge of its own.

    Raises:
        BadInputError: a setting of a suite or of the judge is unknown; the message has the line.
    """
    groups = grouped(experiment.spec.evaluation)
    where = experiment.where("evaluation")
    scorings = {}
    for suite in experiment.suites:
        kind = registry.load("benchmarks", suite)
        settings = located(
            where, lambda kind=kind, suite=suite: parse(kind.Settings, groups.get(suite, {}), f"suite {suite}")
        )
        benchmark = located(where, lambda kind=kind, settings=settings: kind(settings))
        judge, model = _judge(experiment, groups.get("judge", {}), data) if benchmark.needs_judge else (None, None)
        drawn = {"max_new_tokens": benchmark.max_new_tokens, **groups.get("sampling", {})}
        sampling = located(where, lambda drawn=drawn: parse(Sampling, drawn, "sampling"))
        scorings[suite] = Scoring(settings.model_dump(mode="json"), judge, model, sampling.model_dump())
    return scorings


def _judge(experiment: Experiment, settings: Mapping[str, Any], data: str) -> tuple[str, str | None]:
    """The name of the judge and its model, chosen as `eval` chooses them; no judge is made, which may need a key."""
    world = find_world(data.partition("@")[0])
    named = experiment.spec.judge or ("openai" if settings else world.judge if world else "openai")
    name = registry.adopt("judges", named)
    kind = registry.load("judges", name)
    parsed = located(experiment.where("evaluation"), lambda: parse(kind.Settings, dict(settings), f"judge {name}"))
    return name, getattr(parsed, "model", None)
