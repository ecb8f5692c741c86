"""What a record of `harness balance` must hold to be read, see `harness.checkpoints.balance`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from harness.core.reading import read_json
from harness.core.record import Number, Record, Whole, check
from harness.records.score_files import ROUNDING

FOLDER = "balance"
"""In a run's folder: a record for every set of pairs that margins were measured on."""


class Mean(Record):
    """A mean with its interval."""

    value: Number
    ci: Annotated[list[Number], Field(min_length=2, max_length=2)] | None


class Share(Record):
    """A share of the pairs."""

    value: Annotated[float, Field(ge=0, le=1 + ROUNDING)]


class MeasuredRecord(Record):
    """The margins of one checkpoint."""

    after: str
    steps: Whole
    text: Mean
    image: Mean
    text_above_0: Share
    image_above_0: Share
    ratio: Mean | None


class BalanceRecord(Record):
    """The margins of a run."""

    run: str
    data: str
    n: Whole
    checkpoint: str
    measured: Annotated[list[MeasuredRecord], Field(min_length=1)]


def read_balance(path: Path) -> dict[str, Any]:
    """A record of margins, checked.

    Raises:
        BadInputError: it cannot be read or used.
    """
    value = read_json(path, "margins")
    check(BalanceRecord, value, "margins", path)
    assert isinstance(value, dict)
    return value
