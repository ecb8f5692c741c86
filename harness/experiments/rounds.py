"""Rounds: pairs that the model makes itself, and the checkpoint of one round as the start of the next, as steps of an experiment.

Pairs and exported checkpoints are folders below the results, under a hash of everything that determines them, so that experiments and
arms share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.core import registry
from harness.core.config import StrictModel, parse
from harness.core.errors import BadInputError
from harness.core.files import sha256_json
from harness.core.worlds import world_of_pairs
from harness.experiments.arms import Arm
from harness.experiments.contents import Contents, contents
from harness.experiments.keys import JudgedSpec
from harness.experiments.spec import Experiment
from harness.experiments.step import RUNS, Step, located, plain, sets
from harness.generation.settings import PairSettings, SampleSettings
from harness.models import ModelRef, resolve

PAIRS, STARTS = "pairs", "starts"
"""Folders below the results: sets of pairs, and exported checkpoints that the next round starts from."""
ANSWERS_OF = "--answers-of"
_JUDGE_CONTENTS = "contents of the judge"
"""Apart from the other contents of a generation: another judge's answers can be the same ones."""
APART = 1_000
"""Difference of the generation's seeds of two rounds: they sample other prompts."""


def before_alignment(
    experiment: Experiment, arm: Arm, seed: int, model: str, previous: Step | None, results: Path, read: Contents
) -> list[Step]:
    """The steps that an alignment needs: the export of the round before, and the pairs. None for data that exist.

    Args:
        experiment: as it was read.
        arm: the arm, or the round of one.
        seed: of the arm's runs.
        model: the base model.
        previous: the alignment of the round before.
        results: folder of the runs of all experiments.
        read: hashes of what is named by a path.

    Raises:
        BadInputError: the judge or one of its settings is unknown; the message has the line.
    """
    if arm.generate is None:
        return []
    steps = [] if previous is None else [_export(previous, results)]
    return [*steps, _generate(experiment, arm, arm.generate, seed, model, previous, results, read)]


def _export(previous: Step, results: Path) -> Step:
    """The full weights that the next round starts from, and that are its reference."""
    made = f"{STARTS}/{previous.run}"
    command = ("export", previous.run, "-o", str(results / made), "--results", str(results / RUNS))
    key = sha256_json(["export", previous.key])
    about = f"the checkpoint of {previous.about}, as the start of the next round"
    return Step(f"export-{previous.run}", "export", command, (previous.name,), key, about, makes=made)


def _generate(
    experiment: Experiment,
    arm: Arm,
    asked: JudgedSpec,
    seed: int,
    model: str,
    previous: Step | None,
    results: Path,
    read: Contents,
) -> Step:
    """Pairs of the answers of the base model, or of the round before."""
    spec = experiment.spec
    prompts = _prompts(experiment, arm, asked, resolve(model))
    number = seed + APART * (arm.round - 1)
    settings, sentences = _settings(experiment, arm, asked, read)
    identity = {
        "model": previous.key if previous else model,
        "prompts": prompts,
        "limit": asked.limit,
        "backend": spec.backend,
        "seed": number,
        **settings,
        **contents(
            model=None if previous else read.model(model),
            prompts=read.data(prompts),
            backend=read.plugin("backends", spec.backend),
            settings=read.settings({name: settings[name] for name in ("sample", "pair", "serving")}),
        ),
    }
    key = sha256_json(identity)
    judge = {name: settings[name] for name in ("judge", "judged by", _JUDGE_CONTENTS) if name in settings}
    sampled = identity | dict.fromkeys(judge) | {"sample": settings["sample"] | {"samples": None}, "pair": None}
    name = f"{settings['judged by']}-{plain(resolve(model).label)}-{key[:10]}"
    made = f"{PAIRS}/{name}"
    command = ["data", "generate", previous.run if previous else model, "--prompts", prompts, "--judge", asked.judge]
    command += ["-o", str(results / made), "--seed", str(number), "--results", str(results / RUNS)]
    for option, value in (("--limit", asked.limit), ("--backend", spec.backend)):
        command += [option, str(value)] if value is not None else []
    command += sets(asked.settings)
    needs = (previous.name,) if previous else ()
    about = f"pairs for {arm.label}, seed {seed}: answers of {'the round before' if previous else 'the base model'}"
    answers = () if sentences else (sha256_json(sampled), sha256_json([sampled, judge]))
    return Step(f"generate-{name}", "generate", tuple(command), needs, key, about, makes=made, answers=answers)


def _prompts(experiment: Experiment, arm: Arm, asked: JudgedSpec, base_model: ModelRef) -> str:
    """The preference data whose prompts are asked: those that are named, or those that the arm would be trained on."""
    if asked.prompts is None:
        return pairs_of_arm(experiment, arm, base_model)
    where = experiment.where(*_place(experiment, arm), "prompts")
    prompts: str = located(where, lambda: _of_seed(asked.prompts, base_model))
    return prompts


def pairs_of_arm(experiment: Experiment, arm: Arm, base_model: ModelRef) -> str:
    """The preference data that an arm is trained on from the model of one seed, unless it generates its pairs.

    Raises:
        BadInputError: the method is unknown, or a world has no such set; the message has the line.
    """
    kind = located(experiment.where("arms", arm.name, "method"), lambda: registry.load("aligners", arm.method))
    usual = None if base_model.world else kind.default_data
    given = located(experiment.where("arms", arm.name, "data"), lambda: _of_seed(arm.data, base_model))
    return given or usual or base_model.default_preferences


def _of_seed(data: str | None, base_model: ModelRef) -> str | None:
    """The preference data of a seed: of an embedded world that is named without a seed, those of the seed's world.

    Raises:
        BadInputError: a world has no such set.
    """
    world_of_pairs(data or "")
    world = base_model.world
    name, at, of = (data or "").partition("@")
    return f"{world.label}{at}{of}" if world and name == world.name else data


def sharing_answers(steps: Iterable[Step], results: Path) -> Iterator[Step]:
    """The steps, in which generations that sample the same answers take them from the first of these with the same judge, whose verdicts
    they also take, or else from the first with any judge."""
    first: dict[str, Step] = {}
    for step in steps:
        other = next((first[name] for name in reversed(step.answers) if name in first), None)
        for name in step.answers:
            first.setdefault(name, step)
        if other is None:
            yield step
            continue
        command = (*step.command, ANSWERS_OF, str(results / other.makes))
        yield replace(step, command=command, after=(*step.after, other.name))


def without_answers(command: Sequence[str]) -> list[str]:
    """A generation's command that takes no answers from another set, because that set could not be made."""
    place = command.index(ANSWERS_OF)
    return [*command[:place], *command[place + 2 :]]


def _settings(experiment: Experiment, arm: Arm, asked: JudgedSpec, read: Contents) -> tuple[dict[str, Any], bool]:
    """The settings of sampling, pairs and judge with their defaults, and the backend's; whether sentences are judged one by one.

    Raises:
        BadInputError: the judge or a setting is unknown; the message has the line.
    """
    where = experiment.where(*_place(experiment, arm))
    kind = located(where, lambda: registry.load("candidate_judges", asked.judge))
    layers = asked.settings
    models: dict[str, type[StrictModel]] = {"sample": SampleSettings, "pair": PairSettings, "judge": kind.Settings}
    if unknown := sorted(set(layers) - {*models, "backend"}):
        raise BadInputError(
            f"settings of generate must be in the groups sample, pair, judge and backend, not '{unknown[0]}'",
            where=where,
        )
    parsed = {
        group: located(where, lambda group=group, model=model: parse(model, layers.get(group, {}), group))
        for group, model in models.items()
    }
    settings = {group: values.model_dump(mode="json") for group, values in parsed.items()}
    judged_by = registry.adopt("candidate_judges", asked.judge)
    settings |= {"judged by": judged_by, "serving": layers.get("backend", {})}
    code = read.plugin("candidate_judges", asked.judge)
    if judge := contents(code=code, settings=read.settings(settings["judge"])):
        settings[_JUDGE_CONTENTS] = judge
    return settings, kind.sentences


def _place(experiment: Experiment, arm: Arm) -> tuple[str, ...]:
    """Where the file says how the pairs of an arm are generated."""
    return ("generate",) if experiment.spec.arms[arm.name].generate is None else ("arms", arm.name, "generate")
