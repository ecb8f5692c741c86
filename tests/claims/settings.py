"""Every setting and every option of the command line, by a name that a test can claim."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer
from pydantic import BaseModel

GROUPS = ("images", "corrected", "splitter")
"""Groups of settings that several methods share: their settings are listed once, under the group's name, and the group for every method."""


@dataclass(frozen=True)
class Setting:
    """A field of a settings model.

    Attributes:
        name: what a test claims: `train.workers`, `mfpo.stages.count`, `backend.vllm.quantization`.
        model, field: where it is.
    """

    name: str
    model: type[BaseModel]
    field: str


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        names: what a test claims, any of them: `align --full`, `align --lora`.
        parameter: the command's parameter.
        required: the command does not go without it.
    """

    names: tuple[str, ...]
    parameter: str
    required: bool


def settings() -> list[Setting]:
    """Every setting that `--set`, a recipe or an experiment file reaches."""
    from aligners.corrections import CorrectedTokens
    from aligners.rejected_images.settings import ImagePreferenceSettings
    from harness.core import registry
    from harness.core.config import TrainSettings
    from harness.experiments.keys import ExperimentSpec
    from harness.generation.settings import PairSettings, SampleSettings
    from harness.serving.base import Sampling

    names = [
        *_fields(TrainSettings, "train"),
        *_fields(ImagePreferenceSettings, "images"),
        *_fields(CorrectedTokens, "corrected"),
        *_fields(ExperimentSpec, "experiment"),
        Setting("corrupt --set", ImagePreferenceSettings, "corruption"),
    ]
    names += [*_fields(SampleSettings, "sample"), *_fields(PairSettings, "pair")]
    kinds = {
        "candidate_judges": "judge.",
        "aligners": "",
        "benchmarks": "",
        "backends": "backend.",
        "judges": "judge.",
    }
    for kind, prefix in kinds.items():
        for name in registry.entries(kind):  # type: ignore[arg-type]
            loaded: Any = registry.load(kind, name)  # type: ignore[call-overload]
            names += _fields(loaded.Settings, prefix + name)
    for backend in registry.entries("backends"):
        names += [Setting(f"{backend} {one.name}", one.model, one.field) for one in _fields(Sampling, "sampling")]
    return names


def _fields(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for field, about in model.model_fields.items():
        inner = [] if field in GROUPS else list(_models(about.annotation))
        if not inner:
            yield Setting(f"{prefix}.{field}", model, field)
        for group in inner:
            yield from _fields(group, f"{prefix}.{field}")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings models in a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)


def options() -> list[Option]:
    """Every option of every command of `harness`."""
    from harness.cli import app

    return list(_options(typer.main.get_command(app), []))


def _options(command: Any, path: list[str]) -> Iterator[Option]:
    for name, inner in getattr(command, "commands", {}).items():
        yield from _options(inner, [*path, name])
    if hasattr(command, "commands"):
        return
    for parameter in command.get_params(typer.Context(command)):  # those too that suites declare
        names = [name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")]
        if names and parameter.name != "help":
            yield Option(tuple(" ".join([*path, name]) for name in names), parameter.name, parameter.required)
