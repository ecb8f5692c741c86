"""The file of an experiment: its keys, and how it becomes a list of arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.core import registry
from harness.core.config import merged
from harness.core.errors import BadInputError, UnknownNameError, shown
from harness.core.paths import PACKAGE
from harness.core.reading import read_text
from harness.core.worlds import find_world
from harness.core.yaml_values import read_yaml
from harness.experiments.arms import Arm, arms_of
from harness.experiments.keys import ExperimentSpec
from harness.experiments.step import located, plain


@dataclass(frozen=True)
class Experiment:
    """An experiment's file with its arms and line numbers, and the values that the command line gave in place of the file's."""

    path: Path
    spec: ExperimentSpec
    arms: Sequence[Arm]
    lines: Mapping[tuple[str | int, ...], int]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    another_model: bool = False
    """Whether the command line gave another model than the file's."""

    @property
    def given_as(self) -> str:
        """What the command line calls it: the name of a shipped one, or the file's path."""
        return next((name for name, path in _shipped().items() if path == self.path), str(self.path))

    @property
    def name(self) -> str:
        """The name of its folder: the file's name, and the model's if it is not the file's, so that each model keeps its page."""
        return f"{self.path.stem}-{plain(self.spec.model)}" if self.another_model else self.path.stem

    @property
    def suites(self) -> list[str]:
        """The names of the suites, also of those that the file gives as FILE.py:CLASS; in the file's order.

        Raises:
            BadInputError: there is no such file, or the suite in it is at fault; the message has the line.
        """
        return [
            located(self.where("suites", number), lambda suite=suite: registry.adopt("benchmarks", suite))
            for number, suite in enumerate(self.spec.suites)
        ]

    def where(self, *place: str | int) -> str:
        """`FILE, line N` of a place in the file, or of the nearest one around it."""
        return _where(self.path, self.lines, place)


EXPERIMENTS = PACKAGE / "configs" / "experiments"
"""Folder of the experiments that ship with this tool."""


def _shipped() -> dict[str, Path]:
    """Name -> file."""
    return {str(path.relative_to(EXPERIMENTS).with_suffix("")): path for path in sorted(EXPERIMENTS.rglob("*.yaml"))}


def find_experiment(text: str) -> Path:
    """Find a file, or an experiment that ships with this tool by name: `pocket`, `mfpo/table1`.

    Raises:
        UnknownNameError: neither exists.
    """
    shipped = _shipped()
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
        spec = ExperimentSpec.model_validate(_of_the_world(_for_model(values, overrides or {}), path))
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
    where_is = Experiment(path, spec, (), lines).where
    arms = [arm for name in spec.arms for arm in arms_of(name, spec, where_is)]
    labels = [arm.label for arm in arms]
    if repeated := next((label for label in labels if labels.count(label) > 1), None):
        raise BadInputError(f"two arms have the name '{repeated}'", where=str(path))
    if spec.rounds > 1 and not any(arm.generate for arm in arms):
        raise BadInputError(
            "there are rounds, but no arm generates its pairs",
            where=where_is("rounds"),
            remedy="generate: {judge: JUDGE}, in the experiment or in arms",
        )
    another = spec.model != values.get("model", ExperimentSpec.model_fields["model"].default)
    return Experiment(path, spec, arms, lines, dict(overrides or {}), another)


def _for_model(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A file's values with those in `world`, if the model is an embedded world. For any other model, a search in `world` is left out, and
    the arms' `search` with it.
    """
    world, model = (
        values.get("world", {}),
        {**values, **overrides}.get("model", ExperimentSpec.model_fields["model"].default),
    )
    if not isinstance(world, dict) or not isinstance(model, str):
        return merged(dict(values), dict(overrides))
    if find_world(model):
        return merged(dict(values), world, dict(overrides))
    arms = values.get("arms")
    if "search" in world and "search" not in values and isinstance(arms, dict):
        arms = {
            name: {key: value for key, value in arm.items() if key != "search"} if isinstance(arm, dict) else arm
            for name, arm in arms.items()
        }
        return merged({**values, "arms": arms}, dict(overrides))
    return merged(dict(values), dict(overrides))


def _of_the_world(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The values with the name of the model's world in the place of `world` in names of data (`world`, `world@rlhf-v`).

    Raises:
        BadInputError: the model is not of an embedded world.
    """
    model = values.get("model", ExperimentSpec.model_fields["model"].default)
    world = find_world(model) if isinstance(model, str) else None

    def named(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: named(entry, str(name)) for name, entry in value.items()}
        if isinstance(value, list):
            return [named(entry, key) for entry in value]
        if key.rpartition(".")[2] not in ("data", "prompts") or not isinstance(value, str):
            return value
        start, at, of = value.partition("@")
        if start != "world":
            return value
        if world is None:
            raise BadInputError(
                f"the data '{value}' are those of an embedded world, and '{model}' is a model of none",
                where=str(path),
                remedy="name other data, or put the key below `world:`",
            )
        return f"{world.name}{at}{of}"

    return {name: value if name == "world" else named(value, name) for name, value in values.items()}


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
