"""Margins that `harness balance` measured, see `harness.checkpoints.balance`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from harness.core.reading import read_json, read_jsonl
from harness.core.record import AnyText, Number, Record, Whole, check
from harness.records.score_files import ROUNDING

FOLDER = "balance"
"""In a run's folder: a record for every set of pairs that margins were measured on."""


HELD_OUT = "held_out.jsonl"
"""In a run's folder: the margins of every held-out pair (`train.balance`) at the end of the training."""


class HeldOutRow(Record):
    """A row of `held_out.jsonl`: the margins of one pair."""

    pair: str = Field(description="hash of picture, question and answers")
    picture: str = Field(description="fingerprint of the picture; pictures are resampled")
    text: Number = Field(description="chosen minus rejected response")
    image: Number = Field(description="chosen response with the original minus with the rejected picture")


class Mean(Record):
    """A mean with its interval."""

    value: Number
    ci: Annotated[list[Number], Field(min_length=2, max_length=2)] | None


class PairShare(Record):
    """A share of the pairs."""

    value: Annotated[float, Field(ge=0, le=1 + ROUNDING)]
    ci: list[Number] | None = None


class Margins(Record):
    """Mean rewards and margins of a model, with 95 % intervals."""

    rewards: dict[str, Number] | None = Field(None, description="mean reward of every branch")
    text: Mean = Field(description="chosen minus rejected response")
    image: Mean = Field(description="chosen response with the original minus with the rejected picture")
    text_above_0: PairShare = Field(description="of the pairs")
    image_above_0: PairShare = Field(description="of the pairs")
    ratio: Mean | None = Field(description="image through text; null unless both are significantly above 0")


class MeasuredRecord(Margins):
    """The margins of one checkpoint."""

    after: str = Field(description="the stage that it was saved after, or end")
    steps: Whole = Field(description="up to it")


class HeldOutRecord(Record):
    """Margins on held-out pairs, and which pairs these were."""

    data: AnyText = Field(description="the pairs, as the user named them")
    seed: int | None = Field(None, description="of sample and rejected pictures")
    limit: int | None = Field(None, description="size of the sample")
    beta: Number | None = Field(None, description="factor of the rewards")
    n: Whole = Field(description="pairs")
    left_out: Whole | None = Field(None, description="pairs that the run was trained on")
    fingerprint: str | None = Field(None, description="of the data")
    images: dict[str, Any] | None = Field(None, description="how rejected pictures were made")
    measured: list[MeasuredRecord]


class BalanceRecord(HeldOutRecord):
    """The margins of a run, `balance/DATA.json`."""

    run: str
    method: str | None = None
    dtype: str | None = Field(None, description="of the weights")
    checkpoint: str = Field(description="fingerprint of the weights")
    measured: Annotated[list[MeasuredRecord], Field(min_length=1)]
    harness: str | None = Field(None, description="version of this package")


def read_held_out(path: Path) -> list[HeldOutRow]:
    """The margins of the held-out pairs.

    Raises:
        BadInputError: the file cannot be read, or a line is no such row.
    """
    return [check(HeldOutRow, row, "margins", path) for row in read_jsonl(path, "margins")]


def read_balance(path: Path) -> BalanceRecord:
    """A record of margins.

    Raises:
        BadInputError: it cannot be read or used.
    """
    return check(BalanceRecord, read_json(path, "margins"), "margins", path)
