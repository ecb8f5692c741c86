"""The file of an experiment: its keys, and how it becomes a list of arms."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from harness.core.config import StrictModel, merged
from harness.core.errors import BadInputError, UnknownNameError, shown
from harness.core.paths import PACKAGE
from harness.core.reading import read_text
from harness.core.worlds import find_world
from harness.core.yaml_values import read_yaml

MOST_RUNS = 1_000
"""Maximum number of runs of an experiment without a confirmation."""
BASE = "base"
"""The name of the base model in claims."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class Range(StrictModel):
    """Numbers from `low` to `high` that a search may choose; whole ones if both ends are."""

    low: int | float = Field(description="smallest value")
    high: int | float = Field(description="largest value")
    log: bool = Field(False, description="whether equal factors, instead of equal differences, are equally likely")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 if log is true")
        return self


def _form(value: Any) -> str:
    return "range" if isinstance(value, dict | Range) else "list"


Candidates = Annotated[
    Annotated[list[Any], Tag("list")] | Annotated[Range, Tag("range")],
    Discriminator(_form),  # so that an error is about the form that was meant
]


class SearchSpec(StrictModel):
    """How the settings of arms that have a `search` are chosen: always on other data than the scores of the page."""

    objective: str = Field(description="metric of one suite that decides, in its better direction")
    sampler: Literal["tpe", "random", "grid"] = Field(
        "tpe", description="tpe and random: Optuna's samplers; grid: every combination"
    )
    space: dict[str, Candidates] = Field(
        {},
        description="settings that are chosen for every arm that has no `search`: a list of values, or {low, high, log}",
    )
    runs: int | None = Field(None, ge=1, description="settings that are tried for each arm; grid: at most this many")
    seeds: list[int] = Field([0], min_length=1, description="seeds that every setting is tried with")
    seed: int = Field(0, ge=0, description="seed of the sampler")
    split: str = Field("validation", description="of an embedded world: validation; the test split is refused")
    benchmarks: str | None = Field(
        None,
        description="benchmark data for a model that is not of an embedded world; other data than the experiment's",
    )
    questions: int | None = Field(None, ge=1, description="use a seeded sample of about this many items")


class ArmSpec(StrictModel):
    """One arm of the comparison: a method with settings, or several arms from a grid."""

    method: str | None = Field(None, description="name of the method; default: that of the arm in `extends`")
    extends: str | None = Field(None, description="another arm of this file, whose settings are the defaults")
    data: str | None = Field(None, description="preference data of this arm; default: the experiment's")
    settings: dict[str, Any] = Field({}, description="as for --set: train.learning_rate: 1e-5, or nested groups")
    grid: dict[str, list[Any]] = Field({}, description="settings with several values: every combination is an arm")
    pairs: dict[str, list[Any]] = Field(
        {}, description="settings with several values: the first value of each list, the second value of each, ..."
    )
    search: dict[str, Candidates] = Field(
        {}, description="settings that are chosen by the experiment's search: a list of values, or {low, high, log}"
    )


class ExperimentSpec(StrictModel):
    """The keys of an experiment. Defaults are for the embedded world."""

    title: str = Field(min_length=1, description="heading of the page")
    about: str = Field("", description="introduction of the page")
    model: str = Field("pocket", description="base model, as for align --model")
    data: str | None = Field(None, description="preference data of all arms; default: that of each method")
    limit: int | None = Field(None, ge=1, description="use a seeded sample of this many pairs")
    seeds: list[int] = Field([0], min_length=1, description="seeds of the training, and of an embedded world")
    suites: list[str] = Field(min_length=1, description="benchmarks to score")
    split: Literal["validation", "test"] = Field("test", description="split of an embedded world's benchmarks")
    benchmarks: str | None = Field(
        None, description="benchmark data, as for eval --data; default: depends on the model"
    )
    questions: int | None = Field(None, ge=1, description="use a seeded sample of about this many items per suite")
    noise: list[int | str] = Field(
        [], description="also ask about changed pictures: noise steps, blank, shuffled, as for eval --noise"
    )
    backend: str | None = Field(None, description="as for eval --backend")
    judge: str | None = Field(None, description="as for eval --judge")
    settings: dict[str, Any] = Field({}, description="training settings of all arms; an arm's settings override them")
    evaluation: dict[str, Any] = Field({}, description="settings of eval: suites, sampling, backend, judge")
    arms: dict[str, ArmSpec] = Field(min_length=1, description="name -> method and settings")
    search: SearchSpec | None = Field(None, description="how the settings in the arms' `search` are chosen")
    world: dict[str, Any] = Field(
        {},
        description="keys of an experiment (limit, settings, search, ...) that hold only if the model is an embedded world",
    )
    claims: list[str] = Field([], description="METRIC(ARM) < METRIC(OTHER ARM), or >")


@dataclass(frozen=True)
class Arm:
    """One configuration that is trained with every seed.

    Attributes:
        label: the arm's name in the file, with the settings in which a grid's arms differ.
        name: the arm's name in the file alone.
        assigned: the values that a grid or pairs gave it, by dotted key.
        space: the settings that a search chooses, by dotted key.
    """

    label: str
    name: str
    method: str
    data: str | None
    settings: Mapping[str, Any]
    assigned: Mapping[str, Any]
    space: Mapping[str, Sequence[Any] | Range] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """An experiment's file with its arms and line numbers."""

    path: Path
    spec: ExperimentSpec
    arms: Sequence[Arm]
    lines: Mapping[tuple[str | int, ...], int]

    @property
    def name(self) -> str:
        """The name of its folder: the file's name."""
        return self.path.stem

    def where(self, *place: str | int) -> str:
        """`FILE, line N` of a place in the file, or of the nearest one around it."""
        return _where(self.path, self.lines, place)


EXPERIMENTS = PACKAGE / "configs" / "experiments"
"""Folder of the experiments that ship with this tool."""


def find_experiment(text: str) -> Path:
    """Find a file, or an experiment that ships with this tool by name: `pocket`, `mfpo/table1`.

    Raises:
        UnknownNameError: neither exists.
    """
    shipped = {str(path.relative_to(EXPERIMENTS).with_suffix("")): path for path in sorted(EXPERIMENTS.rglob("*.yaml"))}
    if Path(text).suffix in (".yaml", ".yml") or Path(text).exists():
        return Path(text)
    if text not in shipped:
        raise UnknownNameError("experiment", text, shipped)
    return shipped[text]


def read_experiment(path: Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Read a file; values from the command line override it.

    Raises:
        BadInputError: it cannot be read, has an unknown key, or its arms contradict each other; the message has the line.
    """
    values = _with_extended(path, seen=())
    lines = _lines(path)
    if not isinstance(values, dict):
        raise BadInputError("an experiment must be a mapping with title, suites and arms", where=str(path))
    try:
        spec = ExperimentSpec.model_validate(_for_model(values, overrides or {}))
    except ValidationError as error:
        first = error.errors()[0]
        place = tuple(first["loc"])
        where = _where(path, lines, place)
        what = ".".join(map(str, place))
        if first["type"] == "extra_forbidden":
            raise BadInputError(
                f"an experiment has no '{what}'", where=where, remedy="docs/experiments.md lists all keys"
            ) from None
        raise BadInputError(f"'{what}': {first['msg']}, not {shown(first.get('input'))}", where=where) from None
    found = Experiment(path, spec, (), lines)
    arms = [arm for name in spec.arms for arm in _arms(name, found)]
    labels = [arm.label for arm in arms]
    if repeated := next((label for label in labels if labels.count(label) > 1), None):
        raise BadInputError(f"two arms have the name '{repeated}'", where=str(path))
    return Experiment(path, spec, arms, lines)


def _for_model(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A file's values with those in `world`, if the model is an embedded world. For any other model, a search in `world` is left out, and
    the arms' `search` with it.
    """
    world, model = (
        values.get("world", {}),
        {**values, **overrides}.get("model", ExperimentSpec.model_fields["model"].default),
    )
    if not isinstance(world, dict) or not isinstance(model, str):
        return {**values, **overrides}
    if find_world(model):
        return {**merged(dict(values), world), **overrides}
    arms = values.get("arms")
    if "search" in world and "search" not in values and isinstance(arms, dict):
        arms = {
            name: {key: value for key, value in arm.items() if key != "search"} if isinstance(arm, dict) else arm
            for name, arm in arms.items()
        }
        return {**values, "arms": arms, **overrides}
    return {**values, **overrides}


def _where(path: Path, lines: Mapping[tuple[str | int, ...], int], place: tuple[str | int, ...]) -> str:
    for length in range(len(place), 0, -1):
        for start in (place[:length], ("world", *place[:length])):
            if start in lines:
                return f"{path}, line {lines[start]}"
    return str(path)


def _with_extended(path: Path, seen: tuple[Path, ...]) -> Any:
    """A file's values, merged over those of the file that it extends."""
    values = read_yaml(path, "experiment")
    if not isinstance(values, dict) or "extends" not in values:
        return values
    values = dict(values)
    other = values.pop("extends")
    if not isinstance(other, str):
        raise BadInputError("'extends' must be one file", where=str(path))
    following = (path.parent / other).resolve()
    if following in seen or following == path.resolve():
        raise BadInputError(f"'{other}' extends this file, which is a cycle", where=str(path))
    return merged(_with_extended(following, (*seen, path.resolve())), values)


def _lines(path: Path) -> dict[tuple[str | int, ...], int]:
    """Where the values of a file begin: path of keys -> line from 1. The file was read before, so it is valid."""
    lines: dict[tuple[str | int, ...], int] = {}

    def walk(node: yaml.Node, place: tuple[str | int, ...]) -> None:
        lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*place, str(key.value))
                lines[inner] = key.start_mark.line + 1
                walk(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                walk(value, (*place, number))

    node = yaml.compose(read_text(path, "experiment"), Loader=yaml.SafeLoader)
    if node is not None:
        walk(node, ())
    return lines


def _arms(name: str, experiment: Experiment) -> list[Arm]:
    """The arms that one entry of the file defines.

    Raises:
        BadInputError: it extends an unknown arm, has no method, or its pairs have different lengths.
    """
    where = experiment.where("arms", name)
    if not _NAME.fullmatch(name) or name == BASE:
        raise BadInputError(
            f"an arm's name must consist of letters, digits and _ . + -, and not be '{BASE}': {shown(name)}",
            where=where,
        )
    chain = [experiment.spec.arms[name]]
    names = [name]
    while (other := chain[-1].extends) is not None:
        if other not in experiment.spec.arms:
            raise BadInputError(
                f"there is no arm '{other}' to extend", where=experiment.where("arms", names[-1], "extends")
            )
        if other in names:
            raise BadInputError(f"the arms {' and '.join(names)} extend each other", where=where)
        names.append(other)
        chain.append(experiment.spec.arms[other])
    method = next((arm.method for arm in chain if arm.method), None)
    if method is None:
        raise BadInputError(
            f"the arm '{name}' has no method", where=where, remedy="method: NAME, or extends: ANOTHER_ARM"
        )
    data = next((arm.data for arm in chain if arm.data), experiment.spec.data)
    settings = merged(grouped(experiment.spec.settings), *(grouped(arm.settings) for arm in reversed(chain)))
    space = chain[0].search or (experiment.spec.search.space if experiment.spec.search else {})
    return [
        Arm(_label(name, values), name, method, data, merged(settings, grouped(values)), values, space)
        for values in _combinations(chain[0], experiment, name, space)
    ]


def _combinations(arm: ArmSpec, experiment: Experiment, name: str, space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every assignment of the arm's grid and pairs; one empty assignment if it has neither."""
    if both := sorted(set(arm.grid) & set(arm.pairs)):
        raise BadInputError(
            f"'{both[0]}' is in grid and in pairs", where=experiment.where("arms", name, "pairs", both[0])
        )
    if both := sorted(set(space) & (set(arm.grid) | set(arm.pairs))):
        where = experiment.where("arms", name, "search", both[0])
        raise BadInputError(f"'{both[0]}' is searched, and also in grid or pairs", where=where)
    if empty := next((key for key, values in [*arm.grid.items(), *arm.pairs.items()] if not values), None):
        raise BadInputError(f"'{empty}' has no value", where=experiment.where("arms", name))
    lengths = {len(values) for values in arm.pairs.values()}
    if len(lengths) > 1:
        raise BadInputError(
            f"the lists of pairs must have the same length, but have {', '.join(map(str, sorted(lengths)))} values",
            where=experiment.where("arms", name, "pairs"),
        )
    grid = [dict(zip(arm.grid, values, strict=True)) for values in itertools.product(*arm.grid.values())]
    rows = [dict(zip(arm.pairs, values, strict=True)) for values in zip(*arm.pairs.values(), strict=True)] or [{}]
    return [{**some, **more} for some in grid for more in rows]


def grouped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with dotted keys, or groups, as groups: {"train.lora.rank": 8} -> {"train": {"lora": {"rank": 8}}}."""
    layers: list[dict[str, Any]] = []
    for key, value in values.items():
        inner: Any = grouped(value) if isinstance(value, dict) else value
        for part in reversed(key.split(".")):
            inner = {part: inner}
        layers.append(inner)
    return merged(*layers)


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The inverse of `grouped`: every setting by its dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _label(name: str, values: Mapping[str, Any]) -> str:
    """`mfpo, lambda_image=5`: the group `method` is omitted, as in claims."""
    return ", ".join([name, *(f"{key.removeprefix('method.')}={value}" for key, value in values.items())])
