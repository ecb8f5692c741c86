"""Small files of a run's folder: why an attempt failed, and whether a checkpoint is served as it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from harness.core.reading import read_json
from harness.core.record import AnyText, Number, Record, Whole, check


class FailedRecord(Record):
    """`failed.json`: why the last attempt failed."""

    reason: AnyText
    when: str | None = Field(None, description="time in UTC, ISO 8601")
    command: AnyText | None = Field(None, description="the command line")


class ProbeRecord(Record):
    """A picture and a question that a checkpoint was asked on both sides, and how far the sides differ."""

    probe: str = Field(description="its id")
    size: list[Whole] = Field(description="width and height of the picture in pixels")
    prompt: str
    prompt_tokens: Whole
    tokens: Whole = Field(description="of the served answer")
    same_ids: bool = Field(description="whether the prompts' token ids are the same")
    same_tokens: Whole | None = Field(
        description="served tokens that are the trained side's most probable ones; null where the prompts differ"
    )
    near_ties: Whole = Field(description="tokens that differ within the tolerance")
    largest: float | None = Field(
        description="the largest difference of log-probabilities in nats; null where the prompts differ"
    )


class VerificationRecord(Record):
    """`verified.json`: that a checkpoint is served as it was trained (`eval --verify`), and what that is valid for."""

    weights: str | None = Field(None, description="fingerprint of the weights")
    templates: list[str | None] | None = Field(
        None, description="hashes of the served template and of the adapter's own"
    )
    backend: str | None = Field(None, description="the backend, with the settings that can change an answer")
    checkpoint: AnyText | None = Field(None, description="its name")
    base: AnyText | None = Field(None, description="folder or hub id of the full weights")
    adapter: AnyText | None = Field(None, description="folder of the adapter")
    same: bool = Field(description="whether it is served as it was trained")
    tolerance: Number | None = Field(None, description="of log-probabilities")
    largest: float | None = Field(None, description="the largest difference of log-probabilities in nats")
    near_ties: Whole | None = Field(None, description="tokens that differ within the tolerance")
    adapter_changes: Number | None = Field(None, description="the largest effect of the adapter on a log-probability")
    probes: list[ProbeRecord] | None = Field(None, description="what was asked, and each probe's differences")
    findings: list[AnyText] | None = Field(None, description="what differs")
    notes: list[AnyText] | None = None
    serving: dict[str, Any] | None = Field(None, description="the backend, as it describes itself")


def read_verification(path: Path) -> VerificationRecord:
    """A verification.

    Raises:
        BadInputError: it cannot be read or used.
    """
    return check(VerificationRecord, read_json(path, "verification"), "verification", path)
