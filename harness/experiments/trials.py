"""Trials of a search: the rounds in which they are run, and what they gave."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.analysis.scored import scored
from harness.core.files import sha256_json, write_json
from harness.core.reading import read_json
from harness.core.record import check
from harness.experiments.arms import Arm
from harness.experiments.execute import run_steps
from harness.experiments.graph import Plan, plan
from harness.experiments.records import RoundFile
from harness.experiments.search_rules import Objective, trial_spec
from harness.experiments.spec import Experiment
from harness.experiments.state import ExperimentFolder, StepRecord
from harness.experiments.step import RUNS, Step
from harness.experiments.workers import Workers
from harness.runs.folders import open_run

logger = logging.getLogger(__name__)

FOLDER, VALUES = "search", "values.json"


@dataclass(frozen=True)
class Trial:
    """Settings that were tried.

    Attributes:
        settings: by dotted key.
        value: the objective, its mean over `seeds`; None if it failed with one of them.
        seeds: of the search, that it was tried with.
        reason: why there is no value.
    """

    settings: Mapping[str, Any]
    value: float | None
    seeds: Sequence[int] = ()
    reason: str = ""

    @property
    def shown(self) -> dict[str, Any]:
        """For files and for JSON."""
        return {"settings": dict(self.settings), "value": self.value, "seeds": list(self.seeds)}

    def and_then(self, later: Trial) -> Trial:
        """This trial with what the same settings gave with other seeds."""
        if self.value is None or later.value is None:
            return replace(later, value=None, seeds=(*self.seeds, *later.seeds))
        total = self.value * len(self.seeds) + later.value * len(later.seeds)
        seeds = (*self.seeds, *later.seeds)
        return replace(later, value=total / len(seeds), seeds=seeds)


@dataclass(frozen=True)
class Measured:
    """What a round gave.

    Attributes:
        trials: by the labels of its arms.
        failed: step -> why it failed, where the round was run now.
    """

    trials: Mapping[str, Trial]
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """Trials that are run side by side, as arms of an experiment on the search's data, in a folder of their own."""

    experiment: Experiment
    steps: Plan
    folder: ExperimentFolder
    objective: Objective

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        objective: Objective,
        arms: Sequence[Arm],
        seeds: Sequence[int],
        folder: ExperimentFolder,
        number: int,
    ) -> Round:
        """A round that may have been run before.

        Args:
            experiment: whose settings are searched.
            objective: what decides.
            arms: the trials.
            seeds: of the search, that they are tried with.
            folder: of the experiment.
            number: of the round, from 0.
        """
        spec = trial_spec(experiment, objective).model_copy(update={"seeds": list(seeds)})
        trials = replace(experiment, spec=spec, arms=arms)
        return cls(
            trials,
            plan(trials, folder.results, many=True),
            ExperimentFolder(folder.path / FOLDER / f"{number:03d}", folder.results),
            objective,
        )

    @property
    def rows(self) -> Sequence[tuple[Step, StepRecord]]:
        """Its steps with their state."""
        return self.folder.table(self.steps)

    def values(self, workers: Workers | None) -> Measured | None:
        """What the trials gave; None if some are not done and there are no workers to do them."""
        kept = self._kept()
        if kept is not None:
            return Measured(kept)
        if workers is None:  # who only looks writes nothing
            return Measured(self._measured({})) if all(record.state == "done" for _, record in self.rows) else None
        failed = run_steps(self.steps, self.folder, workers)
        trials = self._measured(failed)
        self._keep(trials)
        place = self.folder.path.relative_to(self.folder.path.parents[1])
        return Measured(trials, {f"{place.as_posix()}/{name}": reason for name, reason in failed.items()})

    @property
    def _seeds(self) -> tuple[int, ...]:
        return tuple(self.experiment.spec.seeds)

    def _runs(self, arm: Arm) -> tuple[str, ...]:
        """The names of a trial's runs, by seed. They are hashes of what was tried, so they stay when the arm gets another name."""
        return tuple(self.steps.labels[arm.label, seed] for seed in self.steps.worlds)

    def _measured(self, failed: Mapping[str, str]) -> dict[str, Trial]:
        """The objective's mean over the seeds, from the runs' scores; none for a trial of which a step failed, whose scores on disk are
        of an earlier evaluation."""
        trials = {}
        for arm in self.experiment.arms:
            lost = self._lost(arm, failed)
            values = [None if lost else self._value(name) for name in self._runs(arm)]
            known = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
            if len(known) == len(values):
                trials[arm.label] = Trial(arm.assigned, math.fsum(known) / len(known), self._seeds)
            else:
                unclear = [value for value in values if isinstance(value, str)]
                reason = [*lost, *unclear, f"{self.objective.metric} is undefined"][0]
                trials[arm.label] = Trial(arm.assigned, None, self._seeds, reason)
                logger.warning(f"{arm.label}: {reason}")
        return trials

    def _lost(self, arm: Arm, failed: Mapping[str, str]) -> list[str]:
        """Why alignments or evaluations of a trial failed. An evaluation that went on without other runs has not failed for it."""
        reasons = []
        for step in self.steps.steps:
            if step.name not in failed:
                continue
            mine = set(self._runs(arm)) & {step.run, *(step.asked.runs if step.asked else ())}
            if mine and not mine <= self.folder.scored_runs(step):
                reasons.append(failed[step.name])
        return reasons

    def _value(self, name: str) -> float | str | None:
        """The objective of a run; None if it was not scored or is undefined, a reason if several scores fit the experiment."""
        run = open_run(self.folder.results / RUNS / name)
        if run.manifest is None:
            return None
        records = [score.record for score in scored(run)[0] if score.record.suite == self.objective.suite]
        made = [record for record in records if record.data in self.steps.data and self.steps.made(record)]
        if len(made) > 1:
            variants = ", ".join(f"[{record.variant}]" for record in made)
            return f"the scores {variants} of {name} all fit the experiment's settings and judge"
        metric = made[0].metrics.get(self.objective.metric) if made else None
        return metric.value if metric else None

    def _identity(self) -> str:
        """Hash of what was measured; making a world measures nothing."""
        return sha256_json([step.key for step in self.steps.steps if step.kind != "world"])

    def _kept(self) -> dict[str, Trial] | None:
        """The values of a round that ended, which later scores of the same runs do not change; None if its steps are others, or if they
        are values of another objective. A file that does not say its objective was written before the objective could be compared: its
        runs' scores are read again."""
        path = self.folder.path / VALUES
        if not path.exists():
            return None
        record = check(RoundFile, read_json(path, "values of a search"), "values of a search", path)
        if record.steps != self._identity() or record.objective != self.objective.key:
            return None
        values = {tuple(entry.runs): entry.value for entry in record.trials if entry.runs}
        arms = self.experiment.arms
        if any(self._runs(arm) not in values for arm in arms):
            return None
        return {arm.label: Trial(arm.assigned, values[self._runs(arm)], self._seeds) for arm in arms}

    def _keep(self, values: Mapping[str, Trial]) -> None:
        """Keep a round's values, unless a trial failed: the next command tries it again."""
        if any(trial.value is None for trial in values.values()):
            return
        trials = [
            {
                "label": arm.label,
                "settings": dict(arm.assigned),
                "value": values[arm.label].value,
                "runs": list(self._runs(arm)),
            }
            for arm in self.experiment.arms
        ]
        kept = {"steps": self._identity(), "objective": self.objective.key, "trials": trials}
        write_json(self.folder.path / VALUES, kept)
