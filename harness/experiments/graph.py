"""From an experiment to its steps: their commands, dependencies and keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from aligners.base import layered
from harness.core import registry
from harness.core.config import StrictModel, TrainSettings, merged, parse
from harness.core.errors import BadInputError
from harness.core.files import sha256_json
from harness.core.worlds import find_world
from harness.evaluation.pictures import Change
from harness.evaluation.suites import data_name
from harness.experiments.arms import Arm
from harness.experiments.contents import Contents, contents
from harness.experiments.evaluated import Evaluated, Scoring
from harness.experiments.keys import MOST_RUNS, ExperimentSpec, grouped
from harness.experiments.rounds import before_alignment, pairs_of_arm, sharing_answers
from harness.experiments.scoring import scorings_of
from harness.experiments.spec import Experiment
from harness.experiments.step import RUNS, Step, located, plain, sets
from harness.models import resolve
from harness.records.score_files import SuiteScores
from harness.runs.folders import STAGES

ADAPTERS = 4
"""Maximum number of adapters that one engine serves; each needs memory."""


@dataclass(frozen=True)
class Plan:
    """All steps, sorted by dependencies, and which run belongs to which arm and seed."""

    steps: Sequence[Step]
    runs: Mapping[str, tuple[Arm, int]]
    """Run name -> its arm and seed; if two arms share a run, the first one."""
    labels: Mapping[tuple[str, int], str]
    """(arm's label, seed) -> run name."""
    worlds: Mapping[int, str]
    """Seed -> the label of the model that its runs start from."""
    data: frozenset[str] = frozenset()
    """Names of the benchmark data that the runs are scored on; the runs may have scores on other data, too."""
    scorings: Mapping[str, Scoring] = field(default_factory=dict)
    """Suite -> how the experiment scores it; the runs may have scores by other extractors and judges, too."""

    @cached_property
    def _labels_of(self) -> Mapping[str, set[str]]:
        labels: dict[str, set[str]] = defaultdict(set)
        for (label, _), run in self.labels.items():
            labels[run].add(label)
        return labels

    def arms_of(self, runs: Sequence[str]) -> str:
        """The name of runs of several seeds, or of one run: the arms that have all of them, `a = b` if two share them; "" if none has."""
        shared = [self._labels_of[run] for run in runs if run in self.runs]
        return " = ".join(sorted(set.intersection(*shared))) if shared else ""

    def folder(self, run: str) -> str:
        """A run's folder, below that of all runs; a stage's is inside that of its training."""
        stage = self.runs[run][0].stage
        return run if stage is None else f"{run.removesuffix(f'-{stage}')}/{STAGES}/{stage}"

    def made(self, record: SuiteScores) -> bool:
        """Whether scores of a run are the experiment's, and not those of another extractor or judge."""
        scoring = self.scorings.get(record.suite)
        return scoring is None or scoring.made(record)


def plan(experiment: Experiment, results: Path, *, many: bool = False) -> Plan:
    """Plan the steps of an experiment; names and settings are checked, nothing is run.

    Args:
        experiment: as it was read.
        results: folder of the runs of all experiments.
        many: allow more runs than `MOST_RUNS`.

    Raises:
        BadInputError: a method, suite or setting is unknown, or there are too many runs; the message has the line.
    """
    spec = experiment.spec
    count = len(experiment.arms) * len(spec.seeds)
    if count > MOST_RUNS and not many:
        raise BadInputError(
            f"the experiment has {count:,} runs", where=str(experiment.path), remedy="to confirm, add --yes"
        )
    _look_up(experiment)
    check_seeds(experiment, spec.seeds, "seeds")
    changes = changes_of(experiment)
    scorings = scorings_of(experiment, data_of(spec, spec.model))
    steps: list[Step] = []
    runs: dict[str, tuple[Arm, int]] = {}
    labels: dict[tuple[str, int], str] = {}
    worlds = {seed: model_of(spec.model, seed) for seed in spec.seeds}
    asked_base: dict[str, str] = {}
    read = Contents()
    for seed, model in worlds.items():
        aligned: dict[str, Step] = {}
        rounds: dict[int, dict[str, Step]] = defaultdict(dict)
        stages: dict[str, list[Step]] = defaultdict(list)
        for arm in experiment.arms:
            if arm.whole is not None and arm.stage is not None:
                _check_stages(experiment, arm, seed, model)
                whole = aligned[arm.whole]
                run = labels[arm.label, seed] = f"{whole.run}-{arm.stage}"
                if run not in runs:
                    runs[run] = (arm, seed)
                    stages[whole.name].append(_after_stage(whole, arm.stage))
                continue
            previous = aligned[arm.previous] if arm.previous else None
            before = before_alignment(experiment, arm, seed, model, previous, results, read)
            step = aligned[arm.label] = _align(experiment, arm, seed, model, before, results, read)
            labels[arm.label, seed] = step.run
            runs.setdefault(step.run, (arm, seed))
            of_round = rounds[arm.round]
            of_round |= {needed.name: needed for needed in (*before, step) if needed.name not in of_round}
        in_order = [rounds[place] for place in sorted(rounds)]
        of_seed = [
            step
            for clean in _with_evaluations(experiment, seed, model, in_order, stages, scorings, results, read)
            for step in (clean, *(_noised(clean, changes) if clean.kind == "eval" else []))
        ]
        in_turn = _bases_in_turn(_in_world(model, of_seed), resolve(model).label, asked_base)
        steps += sharing_answers(in_turn, results)
    data = frozenset(data_name(data_of(spec, model)) for model in worlds.values())
    labelled = {seed: resolve(model).label for seed, model in worlds.items()}
    return Plan(steps, runs, labels, labelled, data, scorings)


def _look_up(experiment: Experiment) -> None:
    """Raise an error for unknown names at once."""
    spec = experiment.spec
    for number, suite in enumerate(spec.suites):
        located(experiment.where("suites", number), lambda suite=suite: registry.load("benchmarks", suite))
    located(experiment.where("model"), lambda: resolve(spec.model))
    if spec.judge:
        located(experiment.where("judge"), lambda: registry.load("judges", spec.judge))
    if spec.backend:
        located(experiment.where("backend"), lambda: registry.load("backends", spec.backend))


def check_seeds(experiment: Experiment, seeds: Sequence[int], *place: str) -> None:
    """Check the seeds of the runs, or those of a search.

    Raises:
        BadInputError: one appears twice, or the model is an embedded world's of another seed; the message has the line of `place`.
    """
    if len(set(seeds)) < len(seeds):
        raise BadInputError("a seed appears twice", where=experiment.where(*place))
    world = find_world(experiment.spec.model)
    if world is not None and world.seed and (len(seeds) > 1 or seeds[0] not in (0, world.seed)):
        raise BadInputError(
            f"'{world.label}' is the model of one seed, and the seeds are {', '.join(map(str, seeds))}",
            where=experiment.where(*place),
            remedy=f"model: {world.name}, which has a model for each seed, or only the seed {world.seed}",
        )


def data_of(spec: ExperimentSpec, model: str) -> str:
    """The benchmark data of a seed's model, as for `eval --data`."""
    return spec.benchmarks or (f"{model}@{spec.split}" if find_world(model) else "official")


def model_of(model: str, seed: int) -> str:
    """The model of a seed: an embedded world has one per seed, any other model is the same for all."""
    world = find_world(model)
    return model if world is None or seed == 0 else f"{world.name}:{seed}"


def _in_world(model: str, steps: Sequence[Step]) -> list[Step]:
    """Steps behind the making of their model's embedded world, if there is one: otherwise all wait for the first of them to make it."""
    world = find_world(model)
    if world is None or not steps:
        return [*steps]
    command, about = ("data", "get", world.label), f"base model, pairs and benchmark files of {world.label}"
    made = Step(f"world-{plain(world.label)}", "world", command, (), sha256_json([world.label]), about)
    return [made, *(step if step.needs else replace(step, needs=(made.name,)) for step in steps)]


def _bases_in_turn(steps: Sequence[Step], label: str, last: dict[str, str]) -> list[Step]:
    """Steps of which those that also ask the base model follow one another: they write the answers of one run, which has one writer at a
    time. Seeds share the base model, unless it is an embedded world's.

    Args:
        steps: of one seed.
        label: of its base model.
        last: label -> name of the last step that asks this base model; updated.
    """
    ordered: list[Step] = []
    for step in steps:
        if "--base" in step.command:
            before = last.get(label)
            if before is not None and before not in (*step.needs, *step.after):
                step = replace(step, after=(*step.after, before))
            last[label] = step.name
        ordered.append(step)
    return ordered


def _check_stages(experiment: Experiment, arm: Arm, seed: int, model: str) -> None:
    """Raise an error for an arm whose checkpoints after stages are scored, but not kept."""
    if not settings_of(experiment, arm, seed, model)[0].keeps_stages:
        raise BadInputError(
            f"the arm '{arm.name}' keeps no checkpoints of its stages",
            where=experiment.where("arms", arm.name, "stages"),
            remedy="train.keep_stages: true",
        )


def _after_stage(whole: Step, stage: str) -> Step:
    """A training as an evaluation of the checkpoint after one of its stages sees it; it is no step of its own."""
    return replace(whole, run=f"{whole.run}/{STAGES}/{stage}", key=sha256_json([whole.key, stage]))


def _with_evaluations(
    experiment: Experiment,
    seed: int,
    model: str,
    rounds: Sequence[Mapping[str, Step]],
    stages: Mapping[str, Sequence[Step]],
    scorings: Mapping[str, Scoring],
    results: Path,
    read: Contents,
) -> list[Step]:
    """The steps of every round, each round's evaluations behind them. A run of a later round stands on weights of its own. `stages`:
    by the name of an alignment, what is also scored of it."""
    steps: list[Step] = []
    number = 0
    for place, in_round in enumerate(rounds):
        trained = [step for step in in_round.values() if step.kind == "align"]
        aligned = [scored for step in trained for scored in (step, *stages.get(step.name, ()))]
        steps += in_round.values()
        size = ADAPTERS if place == 0 else 1
        for start in range(0, len(aligned), size):
            part = aligned[start : start + size]
            steps.append(_evaluate(experiment, seed, model, part, number, scorings, results, read))
            number += 1
    return steps


def _align(
    experiment: Experiment, arm: Arm, seed: int, model: str, before: Sequence[Step], results: Path, read: Contents
) -> Step:
    """Train one arm with one seed. The run's name is a hash of what determines it, so experiments share runs. `before`: the steps that
    make its pairs and the checkpoint that it starts from."""
    base_model = resolve(model)
    train, method = settings_of(experiment, arm, seed, model)
    data = pairs_of_arm(experiment, arm, base_model)
    made = {step.kind: step for step in before}
    generated, start = made.get("generate"), made.get("export")
    identity = {
        "method": arm.method_name,
        "model": model,
        "data": generated.key if generated else data,
        **({"start": start.key} if start else {}),
        "limit": arm.limit,
        "train": _determining(train),
        "settings": method.model_dump(mode="json"),
        **contents(
            method=read.plugin("aligners", arm.method),
            model=read.model(model),
            data=None if generated else read.data(data),
            settings=read.settings(method.model_dump(mode="json")),
            margins=located(experiment.where("arms", arm.name), lambda: read.data(train.balance.data)),
        ),
    }
    key = sha256_json(identity)
    run = f"{arm.method_name}-{plain(base_model.label)}-{key[:10]}"
    source = str(results / generated.makes) if generated else data
    command = ["align", "--method", arm.method, "--model", model, "--data", source, "--name", run]
    command += ["--results", str(results / RUNS)]
    if arm.limit:
        command += ["--limit", str(arm.limit)]
    if start:
        command += ["--start", str(results / start.makes)]
    command += sets(merged(dict(arm.settings), {"train": {"seed": seed}}))
    needs = tuple(step.name for step in before)
    about = f"{arm.label}, seed {seed}"
    return Step(f"align-{run}", "align", tuple(command), needs, key, about, run, makes=f"{RUNS}/{run}")


def settings_of(experiment: Experiment, arm: Arm, seed: int, model: str) -> tuple[TrainSettings, StrictModel]:
    """The settings of training and method of an arm, with the defaults of the method and of the world.

    Raises:
        BadInputError: the method or a setting is unknown, or a value is wrong; the message has the line.
    """
    where = experiment.where("arms", arm.name)
    kind = located(experiment.where("arms", arm.name, "method"), lambda: registry.load("aligners", arm.method))
    base_model = resolve(model)
    recipe = base_model.world.recipe(kind.name) if base_model.world else {}
    defaults, seeded = {"train": dict(kind.train_defaults)}, {"train": {"seed": seed}}
    layers = layered(kind.Settings, defaults, recipe, dict(arm.settings), seeded)
    if unknown := sorted(set(layers) - {"train", "method"}):
        raise BadInputError(f"settings must be in the groups train and method, not '{unknown[0]}'", where=where)
    train = located(where, lambda: parse(TrainSettings, layers.get("train", {}), "train"))
    method = located(where, lambda: parse(kind.Settings, layers.get("method", {}), f"method {kind.name}"))
    return train, method


def _determining(train: TrainSettings) -> dict[str, Any]:
    """The training settings that determine what a run contains; without margins, a run has the name that it had before they existed."""
    settings = train.model_dump(mode="json", exclude=set(TrainSettings.COST_ONLY))
    if train.balance.data is None:
        del settings["balance"]
    return settings


def _evaluate(
    experiment: Experiment,
    seed: int,
    model: str,
    aligned: Sequence[Step],
    number: int,
    scorings: Mapping[str, Scoring],
    results: Path,
    read: Contents,
) -> Step:
    """Serve the runs of a seed, with their base model first, and score all suites."""
    spec = experiment.spec
    data = data_of(spec, model)
    command = ["eval", "--suite", ",".join(spec.suites), "--run", ",".join(step.run for step in aligned)]
    command += ["--data", data]
    if number == 0:
        command.append("--base")
    for option, value in (("--limit", spec.questions), ("--backend", spec.backend), ("--judge", spec.judge)):
        command += [option, str(value)] if value is not None else []
    command += sets(spec.evaluation)
    present = contents(
        benchmarks=read.benchmarks(data, spec.suites),
        suites=read.plugins("benchmarks", spec.suites),
        backend=read.plugin("backends", spec.backend),
        judge=read.plugin("judges", spec.judge),
        settings=read.settings(spec.evaluation),
    )
    # Wherever the results are.
    key = sha256_json([command, [step.key for step in aligned], *([present] if present else [])])
    command += ["--results", str(results / RUNS)]
    about = (
        f"{len(aligned)} runs{' and the base' if number == 0 else ''} on {', '.join(experiment.suites)}, seed {seed}"
    )
    needs = tuple(dict.fromkeys(step.name for step in aligned))
    base = resolve(model).label if number == 0 else None
    groups = grouped(spec.evaluation)
    asked = Evaluated(
        tuple(step.run for step in aligned),
        base,
        data_name(data),
        scorings,
        limit=spec.questions,
        backend=registry.adopt("backends", spec.backend) if spec.backend else None,
        is_told=not present and "backend" not in groups and set(groups.get("judge", {})) <= {"model"},
    )
    return Step(f"eval-s{seed}-{number}", "eval", tuple(command), needs, key, about, asked=asked)


def _noised(evaluated: Step, changes: Sequence[Change]) -> list[Step]:
    """For every change of the pictures the evaluation once more, one after another: they read the same plain answers."""
    steps: list[Step] = []
    for change in changes:
        steps.append(
            replace(
                evaluated,
                name=f"noise-{evaluated.name.removeprefix('eval-')}-{change.word}",
                kind="noise",
                command=(*evaluated.command, "--noise", change.word),
                needs=(*evaluated.needs, evaluated.name),
                after=tuple(step.name for step in steps[-1:]),
                key=sha256_json([evaluated.key, change.about()]),
                about=f"{evaluated.about}, pictures: {change.label}",
                asked=replace(evaluated.asked, change=change.word) if evaluated.asked else None,
            )
        )
    return steps


def changes_of(experiment: Experiment) -> list[Change]:
    """The changes of the pictures that the file asks for.

    Raises:
        BadInputError: one is unknown or named twice; the message has the line.
    """
    words = experiment.spec.noise
    where = experiment.where("noise")
    changes: list[Change] = located(where, lambda: Change.parse_list(",".join(map(str, words))) if words else [])
    return changes
