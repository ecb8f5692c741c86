"""Choosing the settings of arms: trials on other data than the scores of the page, in rounds of ordinary steps.

A search is repeated from its start by every command. Trials whose runs are scored are read from disk, so a killed search goes on where
it was, with the same trials.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.analysis.leaderboard.board import scale
from harness.analysis.text_table import TextTable
from harness.core.config import merged
from harness.core.errors import BadInputError
from harness.core.files import sha256_json
from harness.experiments.arms import Arm
from harness.experiments.graph import model_of, settings_of
from harness.experiments.keys import Range, SearchSpec, dotted, grouped
from harness.experiments.samplers import sampler_of
from harness.experiments.search_rules import Objective, going_on, searched_arms
from harness.experiments.spec import Experiment
from harness.experiments.state import ExperimentFolder, StepRecord
from harness.experiments.step import Step
from harness.experiments.trials import Round, Trial
from harness.experiments.workers import Workers


@dataclass
class Searched:
    """The search of one arm.

    Attributes:
        arm: the arm, without what the search chooses.
        default: its own settings of the searched keys, if they are among those to try.
        trials: so far; of settings that are still being tried with further seeds, none.
        maximise: whether a larger objective is better.
        seeds: number of seeds that the best settings are tried with.
        finished: whether the budget is spent.
    """

    arm: Arm
    default: Mapping[str, Any] | None
    trials: list[Trial]
    maximise: bool
    seeds: int
    finished: bool = False

    @property
    def tried(self) -> int:
        """Number of different settings."""
        return len({sha256_json(dict(trial.settings)) for trial in self.trials})

    @property
    def best(self) -> Trial | None:
        """The trial with the best objective of those with all seeds, of equal ones the first; None if there is none."""
        trials = [trial for trial in self.trials if trial.value is not None and len(trial.seeds) == self.seeds]
        return min(trials, key=lambda trial: _loss(trial, self.maximise), default=None)

    @property
    def chosen(self) -> Arm | None:
        """The arm with the best settings, when the search has ended; None before, or if every trial failed."""
        if not self.finished or self.best is None:
            return None
        return replace(self.arm, settings=merged(dict(self.arm.settings), grouped(self.best.settings)), space={})


@dataclass(frozen=True)
class Searches:
    """The searches of an experiment.

    Attributes:
        searched: the arms.
        rounds: if the searches have not ended: the present round, and those that are known to follow it. Which settings go on to them
            with `halving` is not known yet; the first ones stand for them.
        adaptive: whether the settings of later rounds depend on this one, and even their number is not known here.
        failed_steps: of the rounds that were run now: `search/ROUND/STEP` -> why it failed.
    """

    searched: Sequence[Searched]
    rounds: Sequence[Round] = ()
    adaptive: bool = False
    failed_steps: Mapping[str, str] = field(default_factory=dict)

    @property
    def round(self) -> Sequence[tuple[Step, StepRecord]]:
        """The steps of the present round; none if the searches have ended."""
        return self.rounds[0].rows if self.rounds else ()

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
    about = experiment.spec.search
    if about is None:
        return Searches([])
    objective = Objective.of(experiment)
    entries, samplers = [], []
    for arm in searched_arms(experiment):
        default = _own(experiment, arm)
        entries.append(Searched(arm, default, [], objective.maximise, len(about.seeds)))
        samplers.append(sampler_of(about, arm.space, default, maximise=objective.maximise))
    number, failed = 0, dict[str, str]()
    while True:
        asked = [sampler.ask() for sampler in samplers]
        for entry, settings in zip(entries, asked, strict=True):
            entry.finished = not settings
        if not any(asked):
            return Searches(entries, failed_steps=failed)
        batches = [_Batch.of(entry, settings) for entry, settings in zip(entries, asked, strict=True)]
        parts = _parts(about)
        for place, seeds in enumerate(parts):
            of_part = [arm for batch in batches for arm in batch.arms]
            tried = Round.of(experiment, objective, of_part, seeds, folder, number)
            measured = tried.values(workers)
            if measured is None:
                later = _later(experiment, objective, batches, parts[place + 1 :], folder, number)
                return Searches(entries, [tried, *later], about.sampler == "tpe")
            failed |= measured.failed
            for batch in batches:
                batch.add(measured.trials, is_last=place == len(parts) - 1)
            number += 1
        for sampler, batch in zip(samplers, batches, strict=True):
            if batch.trials:
                sampler.tell([batch.trials[label].value for label in batch.trials])


def _parts(about: SearchSpec) -> list[list[int]]:
    """The seeds that trials are run with one after another; without `halving`, all at once."""
    return [[seed] for seed in about.seeds] if about.halving else [about.seeds]


@dataclass
class _Batch:
    """Trials of one arm that its sampler asked for at once.

    Attributes:
        entry: the arm's search.
        arms: those that are tried with the next seeds.
        trials: by their labels, so far.
        before: the arm's earlier trials.
    """

    entry: Searched
    arms: Sequence[Arm]
    trials: dict[str, Trial]
    before: Sequence[Trial]

    @classmethod
    def of(cls, entry: Searched, asked: Sequence[Mapping[str, Any]]) -> _Batch:
        before = tuple(entry.trials)
        return cls(
            entry,
            [_tried(entry.arm, settings, len(before) + place) for place, settings in enumerate(asked)],
            {},
            before,
        )

    def add(self, values: Mapping[str, Trial], *, is_last: bool) -> None:
        """Add what the trials gave with further seeds; before the last ones, only the better half goes on."""
        for arm in self.arms:
            self.trials[arm.label] = (
                self.trials[arm.label].and_then(values[arm.label]) if arm.label in self.trials else values[arm.label]
            )
        if is_last:
            self.arms = []
        else:
            known = [arm for arm in self.arms if self.trials[arm.label].value is not None]
            best = sorted(known, key=lambda arm: _loss(self.trials[arm.label], self.entry.maximise))
            labels = {arm.label for arm in best[: going_on(len(self.arms))]}
            self.arms = [arm for arm in known if arm.label in labels]
        under_way = {arm.label for arm in self.arms}
        self.entry.trials = [
            *self.before,
            *(trial for label, trial in self.trials.items() if label not in under_way),
        ]


def _loss(trial: Trial, maximise: bool) -> float:
    """The objective of a trial that has a value, as a number of which a smaller one is better."""
    value = trial.value or 0.0
    return -value if maximise else value


def _later(
    experiment: Experiment,
    objective: Objective,
    batches: Sequence[_Batch],
    parts: Sequence[Sequence[int]],
    folder: ExperimentFolder,
    number: int,
) -> list[Round]:
    """The rounds with the further seeds of `halving`, for a prediction; the first settings stand for those that will go on."""
    rounds = []
    arms = [batch.arms for batch in batches]
    for place, seeds in enumerate(parts, 1):
        arms = [of_arm[: going_on(len(of_arm))] for of_arm in arms]
        of_part = [arm for of_arm in arms for arm in of_arm]
        rounds.append(Round.of(experiment, objective, of_part, seeds, folder, number + place))
    return rounds


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


def search_tables(experiment: Experiment, searches: Searches) -> list[TextTable]:
    """For the page: how many settings each arm had, what was chosen, and what its own settings gave."""
    about = experiment.spec.search
    if about is None:
        return []
    factor, digits = scale(Objective.of(experiment).unit)

    def shown(trial: Trial | None) -> str:
        if trial is None or trial.value is None:
            return "–"
        left_out = len(trial.seeds) < len(about.seeds)
        only = f" (seed{'s' * (len(trial.seeds) > 1)} {', '.join(map(str, trial.seeds))} only)" if left_out else ""
        return f"{factor * trial.value:.{digits}f}{only}"

    rows = []
    for entry in searches.searched:
        default = next((trial for trial in entry.trials if dict(trial.settings) == entry.default), None)
        best = entry.best
        settings = ", ".join(f"{key}={json.dumps(value)}" for key, value in best.settings.items()) if best else "–"
        rows.append((entry.arm.label, str(entry.tried), settings, shown(best), shown(default)))
    data = about.benchmarks or f"the {about.split} split"
    seeds = ", ".join(map(str, about.seeds))
    title = f"Settings chosen by {about.objective} on {data}, seeds {seeds}; sampler {about.sampler}, seed {about.seed}"
    title += (
        "; after each seed but the last, the better half of an arm's settings went on (at least two)"
        if about.halving
        else ""
    )
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
