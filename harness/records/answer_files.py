"""The files beside a suite's answers: the answers, what served them, and a shard's record. See `harness.core.record`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.core.reading import parse_line, read_json
from harness.core.record import AnyText, Record, Value, Whole, check


class AnswerRecord(Record):
    """A line of a response log, `responses.jsonl`: one complete answer."""

    item: str = Field(description="id of the item; in a set of generated pairs, of the prompt")
    request: str = Field(description="hash of everything that determines the answer")
    text: AnyText = Field(description="the answer")
    finish_reason: Literal["stop", "length", "unknown"] = Field(description="why the answer ended")
    prompt_tokens: Whole | None = Field(description="null if unknown")
    completion_tokens: Whole | None = Field(description="null if unknown")
    backend: str | None = Field(None, description="name of the backend")
    checkpoint: str | None = Field(None, description="fingerprint of what answered")
    model: str = Field("", description="of an endpoint: the name that the answering model gave itself")
    refusal: AnyText | None = Field(None, description="the model's own words, if it declined to answer")
    likelihoods: list[float | None] | None = Field(
        None,
        description="if the likeliest of given answers was chosen: the log-probability of each; null: less likely than those that an "
        "endpoint reports",
    )
    time: str | None = Field(None, description="in UTC, ISO 8601")


class ServingRecord(Record):
    """The backend that answered, as score files have it.

    A backend describes itself; its other keys are kept behind these.
    """

    backend: str
    note: str | None = Field(None, description="what a reader must know of the backend")
    distribution: str | None = Field(None, description="package and version")
    device: str | None = Field(None, description="of the weights; endpoint if they are elsewhere")
    dtype: str | None = Field(None, description="of computation")
    identity: str | None = Field(None, description="of an endpoint: what identifies the model")
    model: str | None = Field(None, description="of an endpoint: the requested model")
    answered_by: list[str] | None = Field(None, description="of an endpoint: the models that answered")
    token_parameter: str | None = Field(None, description="of an endpoint: the parameter that limits the answer")
    adapters: list[str] | None = Field(None, description="adapters that the engine served")
    engines: Any = Field(None, description="of several engines: each one's part of the machine")
    settings: Any = Field(None, description="settings of the backend")
    took: Any = Field(None, description="answers, tokens and seconds of the last command that generated some")
    shards: dict[str, Any] | None = Field(None, description="of merged shards: each one's record")


class Took(Record):
    """Number of answers, and the seconds for generating them."""

    answers: Annotated[int, Field(ge=1)]
    prompt_tokens: Whole | None = None
    completion_tokens: Whole | None = None
    seconds: Value


class ServedRecord(ServingRecord):
    """`serving.json`: the backend that answered, with its settings."""

    settings: dict[str, Any] = Field(default_factory=dict)
    took: Took | None = None
    computed_with: dict[str, dict[str, str]] | None = Field(
        None,
        description="fingerprint of the weights -> SHA-256 of the model's settings by file (`config.json`, ...), places and versions "
        "apart; for a model on the hub, its commit (`commit on the hub`)",
    )


class ShardRecord(Record):
    """`shard.json`: what one job answered of a suite (`--shard`)."""

    target: str | None = Field(None, description="the evaluated checkpoint's run")
    suite: str | None = None
    change: str | None = Field(None, description="how the pictures were changed (`--noise`)")
    data: str | None = Field(None, description="name of the benchmark data")
    index: Annotated[int, Field(ge=1, le=999_999)] = Field(description="of this shard, from 1")
    count: Annotated[int, Field(ge=1, le=999_999)] = Field(description="of shards")
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="size of the sample of the suite")
    items: Whole | None = Field(None, description="of this shard")
    of: Whole | None = Field(None, description="items of the whole suite")
    refused: dict[str, Any] = Field(default_factory=dict, description="item -> why it could not be answered")
    model: str = Field(description="the model that answered behind an endpoint; empty elsewhere")
    checkpoint: str = Field(description="fingerprint of what answered")
    sampling: dict[str, Any] | None = Field(None, description="how tokens were drawn")
    backend: str | None = Field(None, description="the backend, with the settings that can change an answer")
    template: str | None = Field(None, description="hash of the prompt's template")
    folder: AnyText | None = Field(None, description="where the answers are")


def answer_record(line: bytes, number: int, path: Path) -> AnswerRecord:
    """An answer from its line in a response log.

    Raises:
        BadInputError: the line is not JSON, or not an answer.
    """
    return check(AnswerRecord, parse_line(line, number, "response log", path), "answer", path)


def read_serving(path: Path) -> ServedRecord:
    """A serving record.

    Raises:
        BadInputError: it cannot be read or used.
    """
    return check(ServedRecord, read_json(path, "serving record"), "serving record", path)


def read_shard(path: Path) -> ShardRecord:
    """A shard's record.

    Raises:
        BadInputError: it cannot be read or used.
    """
    return check(ShardRecord, read_json(path, "shard's record"), "shard's record", path)
