"""The arms that the entries of an experiment's file define."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from harness.core import registry
from harness.core.config import merged
from harness.core.errors import BadInputError, shown
from harness.experiments.keys import BASE, ArmSpec, ExperimentSpec, GenerateSpec, JudgedSpec, Range, dotted, grouped

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_STAGE = re.compile(r"[0-9]+-[A-Za-z0-9][A-Za-z0-9_.-]*")


class Where(Protocol):
    """`FILE, line N` of a place in the file."""

    def __call__(self, *place: str | int) -> str:
        """See `Experiment.where`."""


@dataclass(frozen=True)
class Arm:
    """One configuration that is trained with every seed.

    Attributes:
        method: as the file gives it, and as commands do: a name, or FILE.py:CLASS.
        label: the arm's name in the file, with the settings in which a grid's arms differ.
        name: the arm's name in the file alone.
        assigned: the values that a grid or pairs gave it, by dotted key; and `round` if there are several.
        space: the settings that a search chooses, by dotted key.
        limit: size of the sample of the pairs.
        generate: how the pairs are made, if the model makes them itself; `data` is then the default of their prompts.
        round: number from 1.
        previous: label of the arm of the round before.
        stage: if it is not the arm's last checkpoint that is scored, but that after a stage: the stage's folder.
        whole: label of the arm whose training has the stage.
    """

    label: str
    name: str
    method: str
    data: str | None
    settings: Mapping[str, Any]
    assigned: Mapping[str, Any]
    space: Mapping[str, Sequence[Any] | Range] = field(default_factory=dict)
    limit: int | None = None
    generate: JudgedSpec | None = None
    round: int = 1
    previous: str | None = None
    stage: str | None = None
    whole: str | None = None

    @property
    def method_name(self) -> str:
        """The method's name, also if the file gives the method as FILE.py:CLASS.

        Raises:
            BadInputError: there is no such file, or the method in it is at fault.
        """
        return registry.adopt("aligners", self.method)


def arms_of(name: str, spec: ExperimentSpec, where: Where) -> list[Arm]:
    """The arms that one entry of the file defines.

    Raises:
        BadInputError: it extends an unknown arm, has no method, gives the seed of the training, or its pairs have different lengths.
    """
    here = where("arms", name)
    if not _NAME.fullmatch(name) or name == BASE:
        raise BadInputError(
            f"an arm's name must consist of letters, digits and _ . + -, and not be '{BASE}': {shown(name)}",
            where=here,
        )
    chain = [spec.arms[name]]
    names = [name]
    while (other := chain[-1].extends) is not None:
        if other not in spec.arms:
            raise BadInputError(f"there is no arm '{other}' to extend", where=where("arms", names[-1], "extends"))
        if other in names:
            raise BadInputError(f"the arms {' and '.join(names)} extend each other", where=here)
        names.append(other)
        chain.append(spec.arms[other])
    method = next((arm.method for arm in chain if arm.method), None)
    if method is None:
        raise BadInputError(
            f"the arm '{name}' has no method", where=here, remedy="method: NAME, or extends: ANOTHER_ARM"
        )
    _check_seed(names, spec, where)
    data, generate = _source(chain, spec, where, name)
    limit = next((arm.limit for arm in chain if arm.limit), spec.limit)
    settings = merged(grouped(spec.settings), *(grouped(arm.settings) for arm in reversed(chain)))
    space = chain[0].search or (spec.search.space if spec.search else {})
    arms = [
        Arm(_label(name, values), name, method, data, merged(settings, grouped(values)), values, space, limit, generate)
        for values in _combinations(chain[0], space, where, name)
    ]
    rounds = _rounds(chain, spec, where, name, generate, searched=bool(space))
    stages = _stages(chain[0], where, name, rounds)
    return [part for arm in arms for in_round in _in_rounds(arm, rounds) for part in _in_stages(in_round, stages)]


_SEED = "train.seed"


def _check_seed(names: Sequence[str], spec: ExperimentSpec, where: Where) -> None:
    """Raise an error for settings with the seed of the training, which the experiment's seeds give: several values of it in a grid would
    be labels of one run. `names`: the arm, and those that it extends."""
    arm = spec.arms[names[0]]
    named = [
        (("settings",), spec.settings),
        *((("arms", name, "settings"), spec.arms[name].settings) for name in names),
        *((("arms", names[0], key), getattr(arm, key)) for key in ("grid", "pairs", "search")),
        (("search", "space"), spec.search.space if spec.search else {}),
    ]
    for place, values in named:
        if _SEED in dotted(grouped(values)):
            raise BadInputError(
                f"{_SEED} has no effect in an experiment: every training has one of the experiment's seeds",
                where=where(*place, *([_SEED] if _SEED in values else _SEED.split("."))),
                remedy="seeds: [1, 2, 3], as a key of the experiment",
            )


def _source(
    chain: Sequence[ArmSpec], spec: ExperimentSpec, where: Where, name: str
) -> tuple[str | None, JudgedSpec | None]:
    """The preference data of an arm, and how they are generated: by the arm, with the values of those that it extends, and of the
    experiment, as defaults. The first of them that names data ends the list.

    Raises:
        BadInputError: an arm names data, and generates them; or it names no judge.
    """
    if chain[0].data and chain[0].generate:
        raise BadInputError(
            f"the arm '{name}' has data, and generates pairs",
            where=where("arms", name, "generate"),
            remedy="leave out one of them; the prompts' data are generate.prompts",
        )
    layers: list[GenerateSpec] = []
    for arm in chain:
        if arm.data:
            if not layers:
                return arm.data, None
            break
        layers += [arm.generate] if arm.generate else []
    asked: dict[str, Any] = {}
    for layer in reversed([*layers, *([spec.generate] if spec.generate else [])]):
        given = layer.model_dump(exclude_unset=True)
        asked = merged(asked, {**given, "settings": grouped(given.get("settings", {}))})
    if layers and not asked.get("judge"):
        raise BadInputError(
            f"the arm '{name}' generates pairs, but names no judge",
            where=where("arms", name, "generate"),
            remedy="generate: {judge: JUDGE}; `harness list candidate-judges` lists them",
        )
    return spec.data, JudgedSpec.model_validate(asked) if asked.get("judge") else None


def _rounds(
    chain: Sequence[ArmSpec],
    spec: ExperimentSpec,
    where: Where,
    name: str,
    generate: JudgedSpec | None,
    *,
    searched: bool,
) -> int:
    """The number of rounds of an arm.

    Raises:
        BadInputError: it has several, but does not generate its pairs, or its settings are searched.
    """
    asked = next((arm.rounds for arm in chain if arm.rounds), None)
    here = where("arms", name, "rounds")
    if asked and asked > 1 and generate is None:
        raise BadInputError(
            f"the arm '{name}' has {asked} rounds, but nothing to generate in them",
            where=here,
            remedy="generate: {judge: JUDGE}",
        )
    rounds = (asked or spec.rounds) if generate else 1
    if rounds > 1 and searched:
        raise BadInputError(
            f"the settings of '{name}' cannot be searched over several rounds",
            where=here,
            remedy="rounds: 1 in this arm, or settings in place of search",
        )
    return rounds


def _in_rounds(arm: Arm, rounds: int) -> list[Arm]:
    """The arm once for each round, or as it is if there is one."""
    if rounds == 1:
        return [arm]
    made: list[Arm] = []
    for number in range(1, rounds + 1):
        assigned = {**arm.assigned, "round": number}
        previous = made[-1].label if made else None
        made.append(replace(arm, label=_label(arm.name, assigned), assigned=assigned, round=number, previous=previous))
    return made


def _stages(arm: ArmSpec, where: Where, name: str, rounds: int) -> list[str]:
    """The stages that are scored.

    Raises:
        BadInputError: one is no folder's name or appears twice, or the arm has several rounds.
    """
    for place, stage in enumerate(arm.stages):
        here = where("arms", name, "stages", place)
        if not _STAGE.fullmatch(stage):
            raise BadInputError(
                f"a stage must be named as its folder is, not {shown(stage)}",
                where=here,
                remedy="NUMBER-NAME, such as 1-easy; `align` prints them",
            )
        if stage in arm.stages[:place]:
            raise BadInputError(f"the stage '{stage}' appears twice", where=here)
    if arm.stages and rounds > 1:
        raise BadInputError(
            f"the stages of '{name}' cannot be scored over several rounds", where=where("arms", name, "stages")
        )
    return arm.stages


def _in_stages(arm: Arm, stages: Sequence[str]) -> list[Arm]:
    """The arm, and once more for each of its stages that is scored."""
    assigned: list[dict[str, Any]] = [{**arm.assigned, "stage": stage} for stage in stages]
    return [
        arm,
        *(
            replace(arm, label=_label(arm.name, values), assigned=values, stage=values["stage"], whole=arm.label)
            for values in assigned
        ),
    ]


def _combinations(arm: ArmSpec, space: Mapping[str, Any], where: Where, name: str) -> list[dict[str, Any]]:
    """Every assignment of the arm's grid and pairs; one empty assignment if it has neither."""
    if both := sorted(set(arm.grid) & set(arm.pairs)):
        raise BadInputError(f"'{both[0]}' is in grid and in pairs", where=where("arms", name, "pairs", both[0]))
    if both := sorted(set(space) & (set(arm.grid) | set(arm.pairs))):
        here = where("arms", name, "search", both[0])
        raise BadInputError(f"'{both[0]}' is searched, and also in grid or pairs", where=here)
    if empty := next((key for key, values in [*arm.grid.items(), *arm.pairs.items()] if not values), None):
        raise BadInputError(f"'{empty}' has no value", where=where("arms", name))
    lengths = {len(values) for values in arm.pairs.values()}
    if len(lengths) > 1:
        raise BadInputError(
            f"the lists of pairs must have the same length, but have {', '.join(map(str, sorted(lengths)))} values",
            where=where("arms", name, "pairs"),
        )
    grid = [dict(zip(arm.grid, values, strict=True)) for values in itertools.product(*arm.grid.values())]
    rows = [dict(zip(arm.pairs, values, strict=True)) for values in zip(*arm.pairs.values(), strict=True)] or [{}]
    return [{**some, **more} for some in grid for more in rows]


def _label(name: str, values: Mapping[str, Any]) -> str:
    """`mfpo, lambda_image=5`: the group `method` is omitted, as in claims."""
    return ", ".join([name, *(f"{key.removeprefix('method.')}={value}" for key, value in values.items())])
