"""Score files: a suite's metrics with what determined them. See `harness.core.record`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from harness.core.reading import read_json
from harness.core.record import AnyText, Number, Record, Versioned, Whole, check
from harness.records.answer_files import ServingRecord

ROUNDING = 1e-9


class MetricRecord(Record):
    """A metric's value and definition.

    `kind` and `invented_by` (see `harness.core.types.MetricSpec`) are null in files of schema 1; the benchmark tells them.
    """

    value: Number | None = Field(description="rates are fractions; null where it is undefined")
    official: str | None = Field(None, description="the digits that the official script prints")
    ci: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = Field(description="95 % interval")
    higher_is_better: bool | None = Field(description="null: neither is better")
    title: str = Field(description="name for tables")
    unit: Literal["%", "words", "points", "count"]
    headline: bool = Field(description="whether leaderboards show it")
    kind: Literal["rate", "score", "count", "diagnostic"] | None = None
    invented_by: str | None = Field(None, description="the metric of invention that charts draw it against")

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.ci is not None and self.ci[0] > self.ci[1]:
            raise ValueError(f"the interval {self.ci} ends before it starts")
        if self.unit == "%" and abs(most := max([self.value or 0.0, *(self.ci or ())], key=abs)) > 1 + ROUNDING:
            raise ValueError(f"{most:g} is not a rate, which is a fraction of at most 1")
        return self


class SamplingRecord(Record):
    """Sampling parameters of the answers."""

    temperature: Any = None
    top_p: Any = None
    seed: Any = None
    max_new_tokens: Whole | None = Field(description="null: not known, as of imported answers")


class JudgeRecord(Record):
    """The judge, as it describes itself; other keys than these are kept behind them."""

    judge: str = Field(description="its name")
    model: str | None = Field(None, description="the requested model")
    answered_by: Any = Field(None, description="the models that answered")
    base_url: Any = Field(None, description="the endpoint")
    temperature: Any = None
    retry_temperature: Any = None
    max_tokens: Any = None
    parameters: Any = Field(None, description="what else was sent")
    votes: Any = Field(None, description="votes per answer")
    asks: Any = Field(None, description="how often an unreadable reply is asked again")
    took: Any = Field(None, description="calls, cached replies, tokens and dollars")


class SpreadRecord(Record):
    """A metric over repeats."""

    mean: Number
    sd: Number = Field(description="standard deviation of a sample")
    min: Number
    max: Number


class RepeatsRecord(Record):
    """The spread over repeats (`--repeat`)."""

    k: Whole = Field(description="number of repeats")
    items: Whole = Field(description="that all repeats have")
    differ: Number | None = Field(description="fraction of these whose text is not the same in all repeats")
    metrics: dict[str, SpreadRecord] = Field(description="those that are defined in all repeats")
    refused: dict[str, dict[str, Any]] | None = Field(
        None,
        description="number of a repeat, from 2 -> item -> why it could not be answered; the first one's are those of the scores",
    )


class SuiteScores(Versioned):
    """What was scored of one suite, of responses that may come from anywhere (`harness score`)."""

    KNOWN = 2
    suite: str = Field(description="name of the suite")
    title: str | None = Field(None, description="of the suite, for tables")
    variant: str = Field(description="what made the numbers from the answers: extractor, parser or judge")
    n: Whole = Field(description="scored items")
    of: Whole = Field(description="items of the whole suite")
    unscored: Whole = Field(description="answered items without a verdict")
    notes: list[str] = Field(default_factory=list, description="for readers of the numbers")
    judge: JudgeRecord | None
    settings: dict[str, Any] = Field(description="of the suite")
    provenance: Any = Field(None, description="versions of parser and vocabulary")
    files: dict[str, Any] | None = Field(None, description="the suite's files with their hashes")
    target: str | None = Field(
        None, description="the evaluated checkpoint's run; like all up to `refused` only of a run"
    )
    method: str | None = Field(None, description="the aligner, base, endpoint or imported")
    model: str | None = Field(None, description="label of the base model")
    data: str | None = Field(None, description="name of the benchmark data")
    source: AnyText | None = Field(None, description="where the benchmark data is")
    checkpoint: str | None = Field(None, description="fingerprint of what answered")
    sampling: SamplingRecord | None = None
    serving: ServingRecord | None = None
    sample: dict[str, Any] | None = Field(None, description="limit and seed of a sample of the suite")
    refused: dict[str, Any] | None = Field(None, description="item -> why it could not be answered")
    metrics: dict[str, MetricRecord]
    counts: dict[str, Number] | None = Field(None, description="sums of the counts of all items")
    repeats: RepeatsRecord | None = None


class ScoresRecord(SuiteScores):
    """A score file, `scores-VARIANT.json`: what was scored of one suite of a run."""

    method: str
    model: str
    data: str
    sampling: SamplingRecord
    serving: ServingRecord


def read_scores(path: Path) -> ScoresRecord:
    """A score file.

    Raises:
        BadInputError: it cannot be read or used.
    """
    return check(ScoresRecord, read_json(path, "scores"), "scores", path)
