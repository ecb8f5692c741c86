"""Choosing the settings of arms: trials on other data than the scores of the page, in rounds of ordinary steps.

A search is repeated from its start by every command. Trials whose runs are scored are read from disk, so a killed search goes on where
it was, with the same trials.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.leaderboard.board import scale
from harness.analysis.scored import scored
from harness.analysis.text_table import TextTable
from harness.core.config import merged
from harness.core.errors import BadInputError
from harness.core.files import sha256_json, write_json
from harness.core.reading import read_json
from harness.core.record import check
from harness.experiments.arms import Arm
from harness.experiments.execute import run_steps
from harness.experiments.graph import Plan, model_of, plan, settings_of
from harness.experiments.keys import Range, dotted, grouped
from harness.experiments.records import RoundFile
from harness.experiments.samplers import Sampler, sampler_of
from harness.experiments.search_rules import Objective, searched_arms, trial_spec
from harness.experiments.spec import Experiment
from harness.experiments.state import ExperimentFolder, StepRecord
from harness.experiments.step import RUNS, Step
from harness.experiments.workers import Workers
from harness.runs.folders import open_run

logger = logging.getLogger(__name__)

FOLDER, VALUES = "search", "values.json"


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, and the objective: the mean over the search's seeds; None with the reason if a run failed."""

    settings: Mapping[str, Any]
    value: float | None
    reason: str = ""


@dataclass
class Searched:
    """The search of one arm.

    Attributes:
        arm: the arm, without what the search chooses.
        default: its own settings of the searched keys, if they are among those to try.
        trials: so far.
        finished: whether the budget is spent.
    """

    arm: Arm
    default: Mapping[str, Any] | None
    trials: list[Trial]
    maximise: bool
    finished: bool = False

    @property
    def tried(self) -> int:
        """Number of different settings."""
        return len({sha256_json(dict(trial.settings)) for trial in self.trials})

    @property
    def best(self) -> Trial | None:
        """The trial with the best objective, of equal ones the first; None if there is none."""
        trials = [trial for trial in self.trials if trial.value is not None]
        sign = -1 if self.maximise else 1
        return min(trials, key=lambda trial: sign * (trial.value or 0.0), default=None)

    @property
    def chosen(self) -> Arm | None:
        """The arm with the best settings, when the search has ended; None before, or if every trial failed."""
        if not self.finished or self.best is None:
            return None
        return replace(self.arm, settings=merged(dict(self.arm.settings), grouped(self.best.settings)), space={})


@dataclass(frozen=True)
class Searches:
    """The searches of an experiment, and if the present round is not done, its steps, and its trials as an experiment with their plan."""

    searched: Sequence[Searched]
    round: Sequence[tuple[Step, StepRecord]] = ()
    trials: tuple[Experiment, Plan] | None = None

    @property
    def adaptive(self) -> bool:
        """Whether later rounds depend on this one, so that they are not known yet."""
        about = self.trials[0].spec.search if self.trials else None
        return about is not None and about.sampler == "tpe"

    def resolved(self, experiment: Experiment) -> Experiment:
        """The experiment with the chosen settings; arms without any are left out."""
        chosen = {entry.arm.label: entry.chosen for entry in self.searched}
        arms = []
        for arm in experiment.arms:
            settled = chosen.get(arm.whole or arm.label, arm)
            if settled is not None:
                arms.append(replace(arm, settings=settled.settings, space={}))
        return replace(experiment, arms=arms)

    @property
    def failed(self) -> dict[str, str]:
        """Arms of which no trial has a value, with a reason."""
        return {
            f"search {entry.arm.label}": next((trial.reason for trial in entry.trials if trial.reason), "no trial")
            for entry in self.searched
            if entry.finished and entry.best is None
        }


def search(experiment: Experiment, results: Path, folder: ExperimentFolder, workers: Workers | None) -> Searches:
    """Run the searches of an experiment, or only read how far they are.

    Args:
        experiment: as it was read and checked.
        results: folder of the runs of all experiments.
        folder: of the experiment; each round of trials has a folder below it.
        workers: run the steps; None: nothing is run.
    """
    if experiment.spec.search is None:
        return Searches([])
    objective = Objective.of(experiment)
    entries, samplers = [], []
    for arm in searched_arms(experiment):
        default = _own(experiment, arm)
        entries.append(Searched(arm, default, [], objective.maximise))
        samplers.append(sampler_of(experiment.spec.search, arm.space, default, maximise=objective.maximise))
    number = 0
    while True:
        asked = [sampler.ask() for sampler in samplers]
        for entry, settings in zip(entries, asked, strict=True):
            entry.finished = not settings
        if not any(asked):
            return Searches(entries)
        arms = [
            [_tried(entry.arm, settings, len(entry.trials) + place) for place, settings in enumerate(of_arm)]
            for entry, of_arm in zip(entries, asked, strict=True)
        ]
        trials = replace(
            experiment, spec=trial_spec(experiment, objective), arms=[arm for of_arm in arms for arm in of_arm]
        )
        steps = plan(trials, results, many=True)
        round_folder = ExperimentFolder(folder.path / FOLDER / f"{number:03d}", results)
        rows = round_folder.table(steps)
        values = _kept(round_folder, steps)
        if values is None and workers is None and any(record.state != "done" for _, record in rows):
            return Searches(entries, rows, (trials, steps))
        if values is None:
            failed = run_steps(steps, round_folder, workers) if workers is not None else {}
            values = _measured(objective, trials.arms, steps, results, failed)
            if workers is not None:  # who only looks writes nothing
                _keep(round_folder, steps, values)
        _tell(entries, samplers, arms, values)
        number += 1


def _tell(
    entries: Sequence[Searched], samplers: Sequence[Sampler], arms: Sequence[Sequence[Arm]], values: Mapping[str, Trial]
) -> None:
    for entry, sampler, of_arm in zip(entries, samplers, arms, strict=True):
        told = [values[arm.label] for arm in of_arm]
        if told:
            entry.trials += told
            sampler.tell([trial.value for trial in told])


def _own(experiment: Experiment, arm: Arm) -> dict[str, Any] | None:
    """The arm's own values of the searched settings, by its file, its recipe and its method; None if the space lacks one."""
    spec = experiment.spec
    assert spec.search is not None
    train, method = settings_of(experiment, arm, spec.search.seeds[0], model_of(spec.model, spec.search.seeds[0]))
    values = dotted({"train": train.model_dump(mode="json"), "method": method.model_dump(mode="json")})
    default = {key: values.get(key) for key in arm.space}
    return default if all(_contains(arm.space[key], value) for key, value in default.items()) else None


def _contains(values: Sequence[Any] | Range, value: Any) -> bool:
    if isinstance(values, Range):
        return isinstance(value, int | float) and values.low <= value <= values.high
    return value in values


def _tried(arm: Arm, settings: Mapping[str, Any], number: int) -> Arm:
    """The arm with the settings of a trial. A trial measures no margins: they do not decide."""
    settled = dict(arm.settings)
    if "balance" in settled.get("train", {}):
        settled["train"] = {key: value for key, value in settled["train"].items() if key != "balance"}
    return replace(
        arm,
        label=f"{arm.label}, trial {number + 1}",
        settings=merged(settled, grouped(settings)),
        assigned=settings,
        space={},
    )


def _measured(
    objective: Objective, arms: Sequence[Arm], steps: Plan, results: Path, failed: Mapping[str, str]
) -> dict[str, Trial]:
    """By the trial's label: the objective's mean over the seeds, from the runs' scores."""
    reasons = list(failed.values())
    trials = {}
    for arm in arms:
        values = []
        for seed in steps.worlds:
            values.append(_value(objective, results / RUNS / steps.labels[arm.label, seed], steps.data))
        known = [value for value in values if value is not None and math.isfinite(value)]
        if len(known) == len(values):
            trials[arm.label] = Trial(arm.assigned, float(np.mean(known)))
        else:
            reason = reasons[0] if reasons else f"{objective.metric} is undefined"
            trials[arm.label] = Trial(arm.assigned, None, reason)
            logger.warning(f"{arm.label}: {reason}")
    return trials


def _value(objective: Objective, path: Path, data: frozenset[str]) -> float | None:
    run = open_run(path)
    if run.manifest is None:
        return None
    for score in scored(run)[0]:
        if score.record.suite == objective.suite and score.record.data in data:
            metric = score.record.metrics.get(objective.metric)
            return metric.value if metric else None
    return None


def _identity(steps: Plan) -> str:
    """Hash of what was measured; making a world measures nothing."""
    return sha256_json([step.key for step in steps.steps if step.kind != "world"])


def _kept(folder: ExperimentFolder, steps: Plan) -> dict[str, Trial] | None:
    """The values of a round that ended, which later scores of the same runs do not change; None if its steps are others."""
    path = folder.path / VALUES
    if not path.exists():
        return None
    record = check(RoundFile, read_json(path, "values of a search"), "values of a search", path)
    if record.steps != _identity(steps):
        return None
    return {entry.label: Trial(entry.settings, entry.value) for entry in record.trials}


def _keep(folder: ExperimentFolder, steps: Plan, values: Mapping[str, Trial]) -> None:
    """Keep a round's values, unless a trial failed: the next command tries it again."""
    if any(trial.value is None for trial in values.values()):
        return
    trials = [
        {"label": label, "settings": dict(entry.settings), "value": entry.value} for label, entry in values.items()
    ]
    write_json(folder.path / VALUES, {"steps": _identity(steps), "trials": trials})


def search_tables(experiment: Experiment, searches: Searches) -> list[TextTable]:
    """For the page: how many settings each arm had, what was chosen, and what its own settings gave."""
    about = experiment.spec.search
    if about is None:
        return []
    factor, digits = scale(Objective.of(experiment).unit)

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{factor * value:.{digits}f}"

    rows = []
    for entry in searches.searched:
        default = next((trial.value for trial in entry.trials if dict(trial.settings) == entry.default), None)
        best = entry.best
        settings = ", ".join(f"{key}={json.dumps(value)}" for key, value in best.settings.items()) if best else "–"
        rows.append((entry.arm.label, str(entry.tried), settings, shown(best.value if best else None), shown(default)))
    data = about.benchmarks or f"the {about.split} split"
    seeds = ", ".join(map(str, about.seeds))
    title = f"Settings chosen by {about.objective} on {data}, seeds {seeds}; sampler {about.sampler}, seed {about.seed}"
    heads = ("arm", "settings tried", "chosen", about.objective, "with its own settings")
    note = (
        "means over the seeds of the search; none of these scores is on this page's leaderboard; own: from file, recipe or method; "
        "–: not among those tried, or undefined for a seed, as where no answer names an object"
    )
    return [TextTable(title, heads, tuple(rows), note)]


def check_ended(searches: Searches) -> None:
    """Refuse to go on with an experiment of which no arm is left.

    Raises:
        BadInputError: every trial of every arm failed.
    """
    if searches.failed and len(searches.failed) == len(searches.searched):
        name, reason = next(iter(searches.failed.items()))
        raise BadInputError(f"no trial of any search has a value; {name}: {reason}", remedy="see the logs of its steps")
