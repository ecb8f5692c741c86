"""`harness experiment --dry-run`: the time and the money that the remaining steps need, as `align` and `eval --dry-run` predict them."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.alignment.align import AlignRequest, plan_align
from harness.core import registry
from harness.core.config import merged
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import sha256_json
from harness.core.worlds import find_world
from harness.evaluation.plan import plan_eval
from harness.evaluation.request import EvalRequest
from harness.experiments.arms import Arm
from harness.experiments.graph import Plan, changes_of, data_of, settings_of
from harness.experiments.keys import grouped
from harness.experiments.rounds import ANSWERS_OF
from harness.experiments.run import Opened
from harness.experiments.spec import Experiment
from harness.experiments.state import StepRecord
from harness.experiments.step import RUNS, Step
from harness.judging.candidates import CandidateJudge
from harness.models import resolve
from harness.remote import hub
from harness.runs.folders import MANIFEST
from harness.runs.targets import target_of_model
from harness.serving.choose import choose_backend

logger = logging.getLogger(__name__)

SAME_COST = {
    "learning_rate", "warmup_ratio", "schedule", "weight_decay", "adam_beta2", "adam_epsilon", "max_grad_norm", "seed",
    "save_steps", "keep_stages", "report_to", "balance",
}  # fmt: skip
"""Settings of training that do not change what a step costs."""

_COSTS = {"model", "limit", "suites", "questions", "backend", "judge", "evaluation"}
"""Keys of an experiment that determine what an evaluation costs, beside its data."""


@dataclass(frozen=True)
class Forecast:
    """What a step that is not done needs.

    Attributes:
        seconds: on this machine, the start of an engine not included; None if it cannot be predicted.
        usd: at most, for a judge; 0 without one, None if it is unknown.
        basis: where the time comes from, or why there is none.
    """

    seconds: float | None
    usd: float | None
    basis: str


class Forecaster:
    """Predicts steps. A step takes as long as one of its kind that is done; otherwise it is planned, once for all that cost the same.

    An embedded world of another seed costs what that of seed 0 does, so that no model is made for a prediction.
    """

    def __init__(
        self,
        experiment: Experiment,
        plan: Plan,
        rows: Sequence[tuple[Step, StepRecord]],
        results: Path,
        planned: dict[str, Forecast],
        bases: Mapping[str, frozenset[str]],
    ) -> None:
        """`planned` has what other experiments predicted, and gets what this one predicts; `bases` is what `first_to_ask` returned."""
        self.experiment, self.plan, self.rows, self.results = experiment, plan, rows, results
        world = find_world(experiment.spec.model)
        self.model = world.name if world else experiment.spec.model
        self._planned, self._bases = planned, bases
        about = experiment.spec.model_dump(mode="json", include=_COSTS)
        self._scope = sha256_json([about, data_of(experiment.spec, self.model)])
        self._changes = {change.word: change for change in changes_of(experiment)}

    def of(self, step: Step) -> Forecast:
        """The prediction for one step."""
        arm = self.plan.runs[step.run][0] if step.kind == "align" else None
        key = self.cost_key(step, arm)
        if key not in self._planned:
            self._planned[key] = self._measured(step, arm) or self._forecast(step, arm)
        return self._planned[key]

    def cost_key(self, step: Step, arm: Arm | None) -> str:
        """Equal for steps that cost the same: a method's arms that differ in weights, or evaluations of as many runs."""
        if step.kind == "world":  # the model of seed 0 may come with the package
            return sha256_json([step.kind, self.model, step.command[-1] == self.model])
        if step.kind in ("generate", "export"):
            return sha256_json([step.kind, *_asked_of(step)])
        if arm is None:
            asks_base = sorted(self._bases.get(step.key, ()))
            return sha256_json([self._scope, step.kind, len(_runs_of(step)), asks_base, _change_of(step)])
        train, method = settings_of(self.experiment, arm, self.experiment.spec.seeds[0], self.model)
        generated = arm.generate.model_dump(mode="json") if arm.generate else None
        settings = [train.model_dump(mode="json", exclude=SAME_COST), _same_cost(method.model_dump(mode="json"))]
        return sha256_json([self.experiment.spec.model, arm.limit, arm.method, arm.data, generated, settings])

    def _measured(self, step: Step, arm: Arm | None) -> Forecast | None:
        """What a step of the same cost took that is done, with the money of the plan."""
        key = self.cost_key(step, arm)
        took = [
            record.seconds
            for other, record in self.rows
            if record.state == "done" and record.seconds and other.kind == step.kind
            and self.cost_key(other, self.plan.runs[other.run][0] if other.kind == "align" else None) == key
        ]  # fmt: skip
        if not took:
            return None
        usd = self._forecast(step, arm).usd if step.kind in ("eval", "noise") else self._price(step)
        return Forecast(statistics.fmean(took), usd, f"mean of {len(took)} steps that are done")

    def _forecast(self, step: Step, arm: Arm | None) -> Forecast:
        try:
            self._check_here()
            if step.kind in ("world", "generate", "export"):
                return Forecast(None, self._price(step), f"no step of the kind {step.kind} is done to take a time from")
            return self._training(arm, step) if arm else self._evaluation(step)
        except HarnessError as error:
            return Forecast(None, None if step.kind in ("eval", "noise") else self._price(step), error.problem)

    def _price(self, step: Step) -> float | None:
        """What a step costs that scores nothing: judges of generated answers may cost money, and the answers are not known yet."""
        if step.kind != "generate":
            return 0.0
        judge = registry.load("candidate_judges", str(_given(step, "--judge")))
        return 0.0 if judge.estimate is CandidateJudge.estimate else None

    def _check_here(self) -> None:
        """Nothing is downloaded for a prediction.

        Raises:
            BadInputError: the model is not on this machine.
        """
        location = resolve(self.model).location
        if location is not None and not Path(location).is_dir() and hub.look(location).folder is None:
            raise BadInputError(f"{location} is not on this machine, so its speed is unknown")

    def _training(self, arm: Arm, step: Step) -> Forecast:
        model: str | None = self.model
        data, start = arm.data, None
        if arm.generate:  # what the round before made is of this seed
            model, data, start = (_given(step, option) for option in ("--model", "--data", "--start"))
            if not all((Path(folder) / MANIFEST).is_file() for folder in (data, start) if folder):
                raise BadInputError("its pairs are not generated yet, so their number is unknown")
        seed = self.experiment.spec.seeds[0]
        settings = merged(dict(arm.settings), {"train": {"seed": seed}})
        request = AlignRequest(
            arm.method,
            str(model),
            self.results / RUNS,
            data,
            settings=settings,
            limit=arm.limit,
            start=Path(start) if start else None,
        )
        plan = plan_align(request)
        if plan["download"]:
            names = ", ".join(download["name"] for download in plan["download"])
            raise BadInputError(f"{names} is not on this machine, so the time is unknown")
        if plan["time"] is None:
            raise BadInputError("a step of the training would not fit into memory, so its time is unknown")
        return Forecast(float(plan["time"]["seconds"]), 0.0, plan["time"]["measured"])

    def _evaluation(self, step: Step) -> Forecast:
        """As `eval --dry-run` predicts it for the base model, times the number of checkpoints."""
        spec = self.experiment.spec
        base = target_of_model(resolve(self.model), self.results / RUNS)
        # Without stored answers; a checkpoint that is yet to be trained has none.
        target = dataclasses.replace(base, folder=base.folder.with_name("not-made-yet"))
        change = _change_of(step)
        request = EvalRequest(
            [target],
            self.experiment.suites,
            data_of(spec, self.model),
            choose_backend(spec.backend),
            grouped(spec.evaluation),
            spec.judge,
            limit=spec.questions,
            changes=[self._changes[change]] if change else [],
        )
        rows = [row for row in plan_eval(request) if row["change"] == change]
        asks_base = self._bases.get(step.key, ())
        counts = [len(_runs_of(step)) + (row["suite"] in asks_base) for row in rows]
        times = [None if row["seconds"] is None else n * row["seconds"] for n, row in zip(counts, rows, strict=True)]
        usd = [row.get("judge_usd_at_most", 0.0) for row in rows]
        prices = [None if price is None else n * price for n, price in zip(counts, usd, strict=True)]
        seconds, price = _sum(times), _sum(prices)
        basis = (
            "the rate of earlier answers"
            if seconds is not None
            else "there are no earlier answers by this backend to these suites to take a rate from"
        )
        return Forecast(seconds, price, basis)


def forecasts(opened: Sequence[Opened]) -> dict[str, Forecast]:
    """Step's key -> prediction, for the steps that are not done; a step that several experiments share has one."""
    planned: dict[str, Forecast] = {}
    predicted: dict[str, Forecast] = {}
    bases = first_to_ask(opened)
    for entry in opened:
        for experiment, plan, rows in entry.remaining():
            forecaster = Forecaster(experiment, plan, rows, entry.folder.results, planned, bases)
            for step, record in rows:
                if record.state != "done" and step.key not in predicted:
                    predicted[step.key] = forecaster.of(step)
    return predicted


def first_to_ask(opened: Sequence[Opened]) -> dict[str, frozenset[str]]:
    """Step's key -> the suites on which it asks its base model before any other step does; a later step takes the stored answers.

    Steps that are done asked before those that are not. Seeds share a base model, unless it is an embedded world's, and so do experiments.
    """
    rows = [
        (record.state != "done", step, experiment, plan)
        for entry in opened
        for experiment, plan, table in entry.remaining()
        for step, record in table
        if "--base" in step.command
    ]
    answered: set[str] = set()
    first: dict[str, frozenset[str]] = {}
    for _, step, experiment, plan in sorted(rows, key=lambda row: row[0]):
        if step.key in first:
            continue
        _, seed = plan.runs[_runs_of(step)[0]]
        spec = experiment.spec
        # Other settings can lead to other questions, answers or verdicts.
        settings = [spec.questions, spec.backend, spec.judge, grouped(spec.evaluation)]
        about = [plan.worlds[seed], _given(step, "--data"), _change_of(step), *settings]
        answers = {suite: sha256_json([suite, *about]) for suite in experiment.suites}
        first[step.key] = frozenset(suite for suite, key in answers.items() if key not in answered)
        answered |= set(answers.values())
    return first


def by_kind(opened: Sequence[Opened], predicted: Mapping[str, Forecast]) -> dict[str, dict[str, Any]]:
    """Kind of step -> how many different ones there are, how many are done, and what the others need."""
    kinds: dict[str, dict[str, str]] = {}
    for entry in opened:
        for _, _, rows in entry.remaining():
            for step, record in rows:
                kinds.setdefault(step.kind, {})[step.key] = record.state
    return {
        kind: {
            "steps": len(states),
            "done": sum(state == "done" for state in states.values()),
            **total([predicted[key] for key in states if key in predicted]),
        }
        for kind, states in kinds.items()
    }


def total(predicted: Sequence[Forecast]) -> dict[str, Any]:
    """The sums of what is known, and for how many steps time and money are unknown."""
    return {
        "seconds": sum(forecast.seconds or 0.0 for forecast in predicted),
        "usd_at_most": sum(forecast.usd or 0.0 for forecast in predicted),
        "steps_without_time": sum(forecast.seconds is None for forecast in predicted),
        "steps_without_price": sum(forecast.usd is None for forecast in predicted),
    }


def _sum(values: Sequence[float | None]) -> float | None:
    """Their sum; None if one of them is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _same_cost(settings: Any) -> Any:
    """A method's settings with None in place of fractional numbers, which are weights of a loss or strengths and change no cost.

    What is computed depends on words, switches, whole numbers, and the length of lists (LPOI has a rejected image for each strength).
    """
    if isinstance(settings, dict):
        return {name: _same_cost(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_same_cost(value) for value in settings]
    return None if isinstance(settings, float) else settings


def _runs_of(step: Step) -> list[str]:
    return step.command[step.command.index("--run") + 1].split(",")


def _change_of(step: Step) -> str | None:
    return _given(step, "--noise") if step.kind == "noise" else None


def _given(step: Step, option: str) -> str | None:
    """The value of an option of a step's command."""
    return step.command[step.command.index(option) + 1] if option in step.command else None


def _asked_of(step: Step) -> list[str]:
    """The command of a step that generates or exports, without the names of what it reads and makes, which are others in every round.
    That it takes answers from another set stays."""
    if step.kind == "export":
        return []
    names = {"-o", "--seed", "--results", "--prompts"}
    command = list(step.command[3:])
    before = ["", *command]
    return [
        part for option, part in zip(before, command, strict=False)
        if part not in names and option not in names and option != ANSWERS_OF
    ]  # fmt: skip
