"""The files of an experiment's folder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.core.record import AnyText, Record, Value


class StepFile(Record):
    """`steps/NAME.json`: how a step of an experiment ended."""

    step: str | None = Field(None, description="name of the step")
    key: str = Field(description="hash of everything that determines the step")
    command: list[AnyText] | None = Field(None, description="the command line")
    state: Literal["done", "failed"]
    seconds: Value | None = Field(None, description="that the step took")
    error: AnyText | None = Field(None, description="end of the command's messages, if it failed")
    process: int | None = Field(None, description="id of the process that ran the experiment")
    finished: str | None = Field(None, description="time in UTC, ISO 8601")
