"""What a search may do, checked before anything starts; above all, it never sees the data that the page's scores come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import registry
from harness.core.config import merged
from harness.core.errors import BadInputError, shown
from harness.core.paths import cache_folder
from harness.core.worlds import find_world
from harness.evaluation.suites import data_name
from harness.experiments.arms import Arm
from harness.experiments.graph import check_seeds, data_of, model_of, settings_of
from harness.experiments.keys import MOST_RUNS, ExperimentSpec, Range, SearchSpec, dotted, grouped
from harness.experiments.samplers import grid_of
from harness.experiments.spec import Experiment


@dataclass(frozen=True)
class Objective:
    """The metric that decides, and its suite."""

    suite: str
    metric: str
    maximise: bool
    unit: str
    needs_judge: bool

    @property
    def key(self) -> str:
        """Suite and metric."""
        return f"{self.suite}.{self.metric}"

    @classmethod
    def of(cls, experiment: Experiment) -> Objective:
        """The objective that the file names: `METRIC`, or `SUITE.METRIC` if several suites compute it.

        Raises:
            BadInputError: no suite of the experiment computes it, several do, or neither direction is better.
        """
        spec, where = experiment.spec, experiment.where("search", "objective")
        assert spec.search is not None
        objectives: list[Objective] = []
        known: list[str] = []
        for suite in experiment.suites:
            benchmark = registry.load("benchmarks", suite)()
            for metric in benchmark.metrics:
                if metric.higher_is_better is None:
                    continue
                known.append(metric.id)
                if spec.search.objective in (metric.id, f"{suite}.{metric.id}"):
                    objectives.append(
                        cls(suite, metric.id, metric.higher_is_better, metric.unit, benchmark.needs_judge)
                    )
        if not objectives:
            raise BadInputError(
                f"no suite of this experiment computes a metric '{spec.search.objective}' of which one direction is better",
                where=where,
                remedy=f"objectives: {', '.join(sorted(set(known)))}",
            )
        if len(objectives) > 1:
            raise BadInputError(
                f"several suites compute '{spec.search.objective}'",
                where=where,
                remedy=f"choose one, e.g. {objectives[0].suite}.{objectives[0].metric}",
            )
        return objectives[0]


def searched_arms(experiment: Experiment) -> list[Arm]:
    """The arms with settings to choose."""
    return [arm for arm in experiment.arms if arm.space and arm.whole is None]


def going_on(tried: int) -> int:
    """With `halving`, how many of an arm's settings are tried with the next seed: the better half, and two at least, so that the choice
    is between settings that were tried with every seed."""
    return min(tried, max(2, (tried + 1) // 2))


def trials_of(settings: int, search: SearchSpec) -> int:
    """Number of trainings of an arm's search, over all seeds."""
    count = 0
    for _ in search.seeds:
        count += settings
        settings = going_on(settings) if search.halving else settings
    return count


def trial_spec(experiment: Experiment, objective: Objective) -> ExperimentSpec:
    """The experiment of which the trials are arms: the objective's suite on the search's data."""
    spec = experiment.spec
    search = spec.search
    assert search is not None
    groups = {objective.suite, "sampling", "backend", *(["judge"] if objective.needs_judge else [])}
    evaluation = dotted({key: value for key, value in grouped(spec.evaluation).items() if key in groups})
    return spec.model_copy(
        update={
            "seeds": search.seeds,
            "suites": [spec.suites[experiment.suites.index(objective.suite)]],  # as the file gives it
            "split": search.split,
            "benchmarks": search.benchmarks,
            "questions": search.questions,
            "noise": [],
            "judge": spec.judge if objective.needs_judge else None,
            "evaluation": evaluation,
        }
    )


def check_search(experiment: Experiment, *, many: bool = False) -> None:
    """Check everything about a search that can be known before it starts.

    Args:
        experiment: as it was read.
        many: allow more runs than `MOST_RUNS`.

    Raises:
        BadInputError: a part is missing or contradicts another, the budget is too small for a grid or too large, a value is not one of its
        setting, or the search would see the data of the page's scores; the message has the line.
    """
    search, arms = experiment.spec.search, searched_arms(experiment)
    if search is None:
        if arms:
            where = experiment.where("arms", arms[0].name, "search")
            raise BadInputError(
                "an arm has settings to choose, but the experiment has no search",
                where=where,
                remedy="add search: {objective: METRIC, runs: 12}",
            )
        return
    if not arms:
        raise BadInputError(
            "no arm says which settings are searched",
            where=experiment.where("search"),
            remedy="arms: {NAME: {search: {method.beta: [0.1, 1]}}}",
        )
    Objective.of(experiment)
    check_seeds(experiment, search.seeds, "search", "seeds")
    _check_data(experiment, search)
    if search.halving and search.sampler == "tpe":
        raise BadInputError(
            "halving compares settings that are tried side by side, and the sampler tpe tries one after another",
            where=experiment.where("search", "halving"),
            remedy="sampler: random or grid, or halving: false",
        )
    if search.halving and len(search.seeds) < 2:
        raise BadInputError(
            "halving is done after each seed of the search but the last, and it has only one",
            where=experiment.where("search", "halving"),
            remedy="search: {seeds: [0, 1, 2]}, or halving: false",
        )
    runs = sum(trials_of(_check_budget(experiment, search, arm), search) for arm in arms)
    if runs > MOST_RUNS and not many:
        where = experiment.where("search")
        raise BadInputError(f"the search has {runs:,} runs", where=where, remedy="to confirm, add --yes")
    for arm in arms:
        for key, values in arm.space.items():
            where = experiment.where("arms", arm.name, "search", key)
            for value in [values.low, values.high] if isinstance(values, Range) else values:
                _check_value(experiment, arm, key, value, where)


def _check_data(experiment: Experiment, search: SearchSpec) -> None:
    """The search's data are no test split, and not those of the page."""
    spec = experiment.spec
    if search.split != "validation":
        raise BadInputError(
            f"settings must be chosen on the validation split, not on '{search.split}'",
            where=experiment.where("search", "split"),
            remedy="split: validation",
        )
    named = search.benchmarks
    where = experiment.where("search", "benchmarks") if named else experiment.where("search")
    if named is None and not find_world(spec.model):
        raise BadInputError(
            f"'{spec.model}' has no validation split of its own",
            where=where,
            remedy="search: {benchmarks: FOLDER} with other data than the experiment's",
        )
    name, _, split = (named or "").partition("@")
    if named and find_world(name) and split != "validation":
        raise BadInputError(
            f"'{named}' is a test split; settings must be chosen on the validation split",
            where=where,
            remedy=f"benchmarks: {name}@validation",
        )
    scored = [data_of(spec, model_of(spec.model, seed)) for seed in spec.seeds]
    chosen_on = spec.model_copy(update={"benchmarks": named, "split": "validation"})
    searched = [data_of(chosen_on, model_of(spec.model, seed)) for seed in search.seeds]
    if same := {_place_of(label): data_name(label) for label in searched if _place_of(label) in map(_place_of, scored)}:
        raise BadInputError(
            f"the settings would be chosen on {', '.join(sorted(same.values()))}, on which the experiment is scored",
            where=where,
            remedy="search with other seeds, or score on another split",
        )
    if alike := {*map(data_name, scored)} & {*map(data_name, searched)}:
        raise BadInputError(
            f"two folders of benchmark data are named '{min(alike)}', and a run keeps its scores under this name",
            where=where,
            remedy="rename one of them",
        )


def _place_of(label: str) -> Path | str:
    """Where benchmark data are, whatever they are called: a folder, or the split of an embedded world."""
    if find_world(label.partition("@")[0]):
        return data_name(label)
    return (cache_folder() / "benchmarks" if label == "official" else Path(label)).resolve()


def _check_budget(experiment: Experiment, search: SearchSpec, arm: Arm) -> int:
    """The number of settings of an arm."""
    if search.sampler != "grid":
        if search.runs is None:
            raise BadInputError(
                f"a search with the sampler {search.sampler} needs a budget",
                where=experiment.where("search"),
                remedy="runs: 12, the number of settings for each arm",
            )
        return search.runs
    where = experiment.where("arms", arm.name, "search")
    if ranges := [key for key, values in arm.space.items() if isinstance(values, Range)]:
        raise BadInputError(
            f"a grid needs a list of values, and '{ranges[0]}' has a range", where=where, remedy="sampler: tpe"
        )
    size = len(grid_of(arm.space))
    if search.runs is not None and size > search.runs:
        raise BadInputError(
            f"the grid of '{arm.label}' has {size} settings, and the budget is {search.runs}",
            where=where,
            remedy="raise search.runs, or use sampler: random",
        )
    return size


def _check_value(experiment: Experiment, arm: Arm, key: str, value: Any, where: str) -> None:
    if isinstance(value, list | dict) or value is None:
        raise BadInputError(
            f"a searched value must be a number, a text, true or false, not {shown(value)}", where=where
        )
    settings: Mapping[str, Any] = merged(dict(arm.settings), grouped({key: value}))
    tried = Arm(arm.label, arm.name, arm.method, arm.data, settings, {})
    seed = experiment.spec.seeds[0]
    try:
        settings_of(experiment, tried, seed, model_of(experiment.spec.model, seed))
    except BadInputError as error:
        raise BadInputError(error.problem, where=where, remedy=error.remedy) from error
