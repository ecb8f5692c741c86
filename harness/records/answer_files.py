"""What the files beside a suite's answers must hold to be read: the answers, what served them, and a shard's record. See `records`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from harness.core.reading import read_json
from harness.core.record import Record, Value, Whole, check
from harness.records.score_files import ServingRecord


def _is_text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("this is not a text")
    return value


AnyText = Annotated[object, AfterValidator(_is_text)]
"""A text that may hold halves of characters, as a model's answer may."""


class AnswerRecord(Record):
    """A line of a response log, see `harness.evaluation.responses.ResponseLog.add`."""

    item: str
    request: str
    text: AnyText
    finish_reason: Literal["stop", "length", "unknown"]
    prompt_tokens: Whole | None
    completion_tokens: Whole | None
    refusal: AnyText | None = None


class Took(Record):
    """Number of answers, and seconds that it took to generate them."""

    answers: Annotated[int, Field(ge=1)]
    seconds: Value


class ServedRecord(ServingRecord):
    """A `serving.json`: the backend that answered, with its settings."""

    settings: dict[str, Any] = Field(default_factory=dict)
    took: Took | None = None


class ShardRecord(Record):
    """A `shard.json`, see `harness.evaluation.evaluate`."""

    index: Annotated[int, Field(ge=1, le=999_999)]
    count: Annotated[int, Field(ge=1, le=999_999)]
    checkpoint: str
    model: str
    limit: Annotated[int, Field(ge=1)] | None = None
    refused: dict[str, Any] = Field(default_factory=dict)


def read_serving(path: Path) -> dict[str, Any]:
    """A serving record, checked.

    Raises:
        BadInputError: it cannot be read or used.
    """
    return _read(ServedRecord, path, "serving record")


def read_shard(path: Path) -> dict[str, Any]:
    """A shard's record, checked.

    Raises:
        BadInputError: it cannot be read or used.
    """
    return _read(ShardRecord, path, "shard's record")


def _read(kind: type[Record], path: Path, what: str) -> dict[str, Any]:
    value = read_json(path, what)
    check(kind, value, what, path)
    assert isinstance(value, dict)
    return value
