"""The keys of an experiment's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from harness.core.config import StrictModel, merged

MOST_RUNS = 1_000
"""Maximum number of runs of an experiment without a confirmation."""
BASE = "base"
"""The name of the base model in claims."""


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
    halving: bool = Field(
        False,
        description="try the settings with one seed after another, and with the next one only the better half of each arm's settings "
        "(two at least)",
    )
    seed: int = Field(0, ge=0, description="seed of the sampler")
    split: str = Field("validation", description="of an embedded world: validation; the test split is refused")
    benchmarks: str | None = Field(
        None,
        description="benchmark data for a model that is not of an embedded world; other data than the experiment's",
    )
    questions: int | None = Field(None, ge=1, description="use a seeded sample of about this many items")


class GenerateSpec(StrictModel):
    """Pairs that the model of an arm makes itself, as `harness data generate` makes them; in every round from its last checkpoint."""

    judge: str | None = Field(
        None,
        description="who scores the answers, as for data generate --judge; the experiment's may be left to the arms",
    )
    prompts: str | None = Field(
        None,
        description="as for data generate --prompts; default: the preference data that the arm would be trained on",
    )
    limit: int | None = Field(
        None, ge=1, description="use a seeded sample of this many prompts, in every round another one"
    )
    settings: dict[str, Any] = Field(
        {}, description="as for data generate --set: sample.samples: 10, in the groups sample, pair, judge and backend"
    )


class JudgedSpec(GenerateSpec):
    """How the pairs of one arm are made: the judge is known, and the settings are in groups."""

    judge: str


class ArmSpec(StrictModel):
    """One arm of the comparison: a method with settings, or several arms from a grid."""

    method: str | None = Field(None, description="name of the method; default: that of the arm in `extends`")
    extends: str | None = Field(None, description="another arm of this file, whose settings are the defaults")
    data: str | None = Field(None, description="preference data of this arm; default: the experiment's")
    limit: int | None = Field(
        None, ge=1, description="use a seeded sample of this many pairs; default: the experiment's limit"
    )
    generate: GenerateSpec | None = Field(
        None, description="train on pairs that the model makes itself; keys left out are the experiment's"
    )
    rounds: int | None = Field(None, ge=1, description="rounds of generating and aligning; default: the experiment's")
    stages: list[str] = Field(
        [], description="also score the checkpoints after these stages, by their folders' names: 1-easy, 2-medium"
    )
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
    generate: GenerateSpec | None = Field(
        None,
        description="train all arms that name no data on pairs that the model makes itself; without a judge, only those with one",
    )
    rounds: int = Field(
        1, ge=1, description="of arms with `generate`: generate from the last checkpoint, align, evaluate, and again"
    )
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
