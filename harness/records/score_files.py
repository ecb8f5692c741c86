"""What score files must hold to be read. See `record`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from harness.core.reading import read_json
from harness.core.record import Number, Record, Versioned, Whole, check
from harness.records.answer_files import ServingRecord

ROUNDING = 1e-9


class MetricRecord(Record):
    """A metric's value and definition.

    `kind` and `invented_by` (see `harness.core.types.MetricSpec`) are None in files of schema 1; the benchmark tells them.
    """

    value: Number | None
    ci: Annotated[list[Number], Field(min_length=2, max_length=2)] | None
    higher_is_better: bool | None
    title: str
    unit: Literal["%", "words", "points", "count"]
    headline: bool
    official: str | None = None
    kind: Literal["rate", "score", "count", "diagnostic"] | None = None
    invented_by: str | None = None

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.ci is not None and self.ci[0] > self.ci[1]:
            raise ValueError(f"the interval {self.ci} ends before it starts")
        if self.unit == "%" and abs(most := max([self.value or 0.0, *(self.ci or ())], key=abs)) > 1 + ROUNDING:
            raise ValueError(f"{most:g} is not a rate, which is a fraction of at most 1")
        return self


class SamplingRecord(Record):
    """Sampling parameters of the answers."""

    max_new_tokens: Whole


class JudgeRecord(Record):
    """The judge."""

    judge: str
    model: str | None = None


class ScoresRecord(Versioned):
    """A score file, see `harness.evaluation.score.score_suite`."""

    KNOWN = 2
    suite: str
    variant: str
    data: str
    model: str
    method: str
    settings: dict[str, Any]
    metrics: dict[str, MetricRecord]
    n: Whole
    of: Whole
    unscored: Whole
    judge: JudgeRecord | None
    sampling: SamplingRecord
    serving: ServingRecord
    source: str | None = None
    files: dict[str, Any] | None = None
    counts: dict[str, Number] | None = None


def read_scores(path: Path) -> ScoresRecord:
    """A score file.

    Raises:
        BadInputError: it cannot be read or used.
    """
    return check(ScoresRecord, read_json(path, "scores"), "scores", path)
