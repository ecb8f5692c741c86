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


class VerificationRecord(Record):
    """`verified.json`: that a checkpoint is served as it was trained (`eval --verify`), and what that is valid for."""

    weights: str | None = Field(None, description="fingerprint of the weights")
    templates: list[str | None] | None = Field(
        None, description="hashes of the served template and of the adapter's own"
    )
    backend: str | None = Field(None, description="the backend, with the settings that can change an answer")
    checkpoint: str | None = Field(None, description="its name")
    base: AnyText | None = Field(None, description="folder or hub id of the full weights")
    adapter: AnyText | None = Field(None, description="folder of the adapter")
    same: bool = Field(description="whether it is served as it was trained")
    tolerance: Number | None = Field(None, description="of log-probabilities")
    largest: Number | None = Field(None, description="the largest difference of log-probabilities")
    near_ties: Whole | None = Field(None, description="tokens that differ within the tolerance")
    adapter_changes: Number | None = Field(None, description="the largest effect of the adapter on a log-probability")
    probes: list[dict[str, Any]] | None = Field(None, description="what was asked, with each one's differences")
    findings: list[AnyText] | None = Field(None, description="what differs")
    notes: list[AnyText] | None = None
    serving: dict[str, Any] | None = Field(None, description="the backend, as it describes itself")


def read_verification(path: Path) -> VerificationRecord:
    """A verification.

    Raises:
        BadInputError: it cannot be read or used.
    """
    return check(VerificationRecord, read_json(path, "verification"), "verification", path)
