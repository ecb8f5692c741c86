"""The files of an experiment's folder."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from harness.core.record import AnyText, Number, Record, Value
from harness.records.manifest_file import Hardware


class DoneStepFile(Record):
    """`steps/NAME.json`: how a step of an experiment ended."""

    step: str | None = Field(None, description="name of the step")
    key: str = Field(description="hash of everything that determines the step")
    command: list[AnyText] | None = Field(None, description="the command line")
    state: Literal["done", "failed"]
    seconds: Value | None = Field(None, description="that the step took")
    error: AnyText | None = Field(None, description="end of the command's messages, if it failed")
    process: int | None = Field(None, description="id of the process that ran the experiment")
    finished: str | None = Field(None, description="time in UTC, ISO 8601")
    scored: dict[str, str] | None = Field(
        None,
        description="of an evaluation that ended, at least of some runs: score file below the runs' folder -> hash of what was scored",
    )


class RunningFile(Record):
    """`running.json`: the steps that are running, while a process runs the experiment."""

    begun: dict[str, float] = Field(description="name of a step -> when it began, in seconds since 1970")


class TrialFile(Record):
    """A trial of a search."""

    label: AnyText = Field(description="of the arm, with the trial's number")
    settings: dict[str, Any] = Field(description="by dotted key")
    value: Number = Field(description="objective, mean over the round's seeds")
    runs: list[str] | None = Field(
        None, description="names of its runs, by seed; they identify the trial, as labels can change"
    )


class RoundFile(Record):
    """`search/NUMBER/values.json`: the objectives of a round of trials."""

    steps: str = Field(description="hash of the keys of the round's steps")
    objective: str | None = Field(None, description="suite and metric; a file of an earlier version does not say it")
    trials: list[TrialFile]


class SearchResult(Record):
    """How the settings of an arm were chosen."""

    arm: AnyText
    objective: str
    sampler: str
    settings: int = Field(description="number of different settings that were tried")
    chosen: dict[str, Any] | None = Field(description="by dotted key; null if every trial failed")
    value: Number | None = Field(description="objective of the chosen settings")
    trials: list[dict[str, Any]] = Field(
        description="settings and value of each, in order, and the seeds that it is the mean of"
    )


Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]


class ClaimResult(Record):
    """What the runs of an experiment say about a claim."""

    claim: str = Field(description="as the file has it")
    verdict: str
    column: str | None = Field(description="the compared metric")
    values: Pair | None = Field(description="of both arms, means over the seeds")
    difference: Number | None = Field(description="left minus right")
    ci: Pair | None = Field(description="95 % interval of the difference")
    p_holm: Number | None = Field(description="corrected over the experiment's claims")
    by_seed: list[Number] = Field(description="the difference of every seed")
    reason: str | None = Field(description="why there is no result")


class ResultFile(Record):
    """`experiment.json`: the result of an experiment, with what computed it."""

    title: str
    claims: list[ClaimResult]
    arms: dict[str, list[Any]] = Field(description="arm -> its runs, by seed")
    search: list[SearchResult] | None = Field(None, description="of every arm whose settings were chosen")
    seeds: list[int]
    failed: dict[str, AnyText] = Field(description="step -> why it failed")
    harness: str = Field(description="as in Surroundings, like the keys below")
    commit: str | None
    python: str
    packages: dict[str, str]
    hardware: Hardware
    command: list[AnyText]
    finished: str
