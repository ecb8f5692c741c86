"""The benchmark contract: three functions, and what a benchmark may declare beside them.

A benchmark must have a name, title, source, `max_new_tokens` and `metrics`, and the functions `items`, `score` and `aggregate`. Everything
else is optional; `Benchmark` lists it with what holds where it is left out. Tables, report, comparison and command line know a benchmark by
this contract alone, so one of a plugin is shown as one of ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from benchmarks.answers import AnswerRow, PackedResponses, identity
from harness.core.declared import Chart, MatchedForm, OfflineFile, SettingOption, Verdict, verdict_of
from harness.core.errors import BadInputError, shown
from harness.core.reading import read_records
from harness.core.types import Item, MetricSpec, Response, SampleScore
from harness.datasets.catalogue import compare
from harness.judging.base import Judge, JudgeRequest

Totals = Mapping[str, np.ndarray]
"""Count name -> sums over items, float64, any common shape: [] for the point estimate, [R] for R resamples.

Always holds "n", the number of scored items.
"""


class BenchmarkSettings(BaseModel):
    """Options of a benchmark; subclasses add theirs. They decide numbers, so they are saved with every score."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Benchmark(ABC):
    """A benchmark gives questions, scores answers item by item, and turns summed counts into metrics.

    Because `aggregate` is a pure, vectorised function of summed counts, ten thousand bootstrap resamples
    are one matrix product.

    What the core reads of it, beside the three functions:

    - of a metric (`MetricSpec`): direction, unit, kind, whether it is a headline, and `invented_by`, its partner on the frontier;
    - of an item: `Item.group`, the cluster that is resampled, and `truth`, what is shown as right;
    - of an answer: `verdict`. A yes/no suite has none to write: it notes `said` and `label` in `SampleScore.details`; nor one whose
      `Evidence` says what is hallucinated; nor one that a judge rates, with `hallucinated_below`;
    - `offline_files`, `setting_options` and `read_offline` for `harness score`; `charts`; `matched`; `place`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    """Paper."""
    max_new_tokens: ClassVar[int]
    needs_judge: bool = False
    """May depend on the settings."""
    place: ClassVar[int] = 1000
    """In tables, suites with lower numbers come first; equals stand as they were scored."""
    offline_files: ClassVar[Sequence[OfflineFile]] = (
        OfflineFile("data", "a folder with one folder per suite, as for harness eval"),
        OfflineFile("responses", "JSON lines {item, text}"),
    )
    """The files that `read_offline` takes: options of `harness score`."""
    setting_options: ClassVar[Sequence[SettingOption]] = ()
    """Settings of how answers are scored that are options of the commands that score, too; `--set SUITE.KEY=VALUE` sets any."""
    charts: ClassVar[Sequence[Chart]] = ()
    """What the report draws of its metrics; what evidence tells (classes, pairs) is drawn of every suite that has some."""
    matched: ClassVar[MatchedForm | None] = None
    """How descriptions are compared at equal length; None where responses are no descriptions with evidence."""
    pipelines: ClassVar[Mapping[str, str]] = {}
    """spaCy pipeline -> what of the official script needs it; `harness doctor` looks for them."""
    hallucinated_below: ClassVar[float | None] = None
    """A judge's rating (`details.rating`) below this is a hallucination; None where no judge rates."""
    Settings: ClassVar[type[BenchmarkSettings]] = BenchmarkSettings

    def __init__(self, settings: BenchmarkSettings | None = None) -> None:
        self.settings = settings or self.Settings()
        self.files: dict[str, Path] = {}
        """The files that decided what was asked and what is right, by name; filled by `reading`."""
        self.notes: list[str] = []
        """What was read in another way than it is written, in sentences; stands below the scores."""

    @contextmanager
    def reading(self, path: Path) -> Iterator[Path]:
        """While a file of the benchmark is read: it is noted for the record, and an error says whether it is the official one."""
        self.files[path.name] = path
        try:
            yield path
        except BadInputError as error:
            remedies = [one for one in (compare(path), error.remedy) if one]
            raise BadInputError(error.problem, where=error.where, remedy="; ".join(remedies) or None) from None

    @property
    @abstractmethod
    def metrics(self) -> Sequence[MetricSpec]:
        """All metrics that `aggregate` returns, in the order of display."""

    @property
    def variant(self) -> str:
        """What made the numbers, as part of their name (e.g. the extractor): shown as `CHAIRs[spacy]`. "" for none."""
        return ""

    def variant_with(self, judge: Judge | None) -> str:
        """The variant, with the judge where one graded."""
        return "+".join(part for part in (self.variant, judge.label if judge else "") if part)

    @abstractmethod
    def items(self, data: Path) -> list[Item]:
        """The questions, read from a folder in the official file layout.

        Raises:
            BadInputError: a file is missing or broken; the message names it and the command that gets it.
        """

    @abstractmethod
    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """One `SampleScore` per item, in the order of `items`. `responses` (by item id) must cover them all."""

    @abstractmethod
    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Metric id -> value(s) of the same shape as the totals; NaN where undefined (0/0). Rates are fractions."""

    def truth(self, item: Item) -> str:
        """What is right, in words, for the report: by default the reference's `answer` or `label`; "" where there is neither."""
        return str(item.reference.get("answer", item.reference.get("label", "")))

    def verdict(self, row: Mapping[str, Any]) -> Verdict:
        """The verdict on a stored answer: a row of an item file, with its text, counts, evidence and details."""
        return verdict_of(row, self.hallucinated_below)

    def official(self, totals: Totals) -> dict[str, str]:
        """Metric id -> the text that the official script prints, for those that it prints."""
        return {}

    def official_of(self, scores: Sequence[SampleScore]) -> dict[str, str]:
        """As `official`, for a suite whose official script prints what counts do not tell (unreadable replies, say)."""
        return {}

    offline_judge: Judge | None = None
    """A judge that `read_offline` found in the files (stored reviews)."""

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], Mapping[str, Response]]:
        """Items and responses from files, for `harness score`: responses that came from anywhere.

        By default the items of the suite's own folder in `data`, and responses that name their `item`, as in a run's responses.jsonl.

        Args:
            files: declared option -> file or folder, of the options that were given. What is never looked up in it is refused by the
                command, as it would decide nothing; `needed` looks one up that there must be.

        Raises:
            BadInputError: an option that the suite needs is not given, or a file is broken.
        """
        items = self.items(needed(files, "data", self.name) / self.name)
        responses = PackedResponses()
        for where, record in read_records(needed(files, "responses", self.name), "responses"):
            row = AnswerRow(record, where, ("text", "response", "answer"))
            name = identity(row.doc, "item", where)
            if name in responses:
                raise BadInputError(f"a second response for the item {shown(name)}", where=where)
            responses.add(row.response(name))
        return items, responses

    def judge_requests(self, items: Sequence[Item], responses: Mapping[str, Response]) -> list[JudgeRequest]:
        """What `score` will ask a judge, for an estimate beforehand; [] where it asks nothing."""
        return []

    def read_reply(self, text: str) -> float | None:
        """The rating in a judge's reply, None where none can be read beyond doubt; for `harness calibrate`.

        Raises:
            BadInputError: no judge rates this suite's answers.
        """
        raise BadInputError(f"the suite '{self.name}' does not use a judge", remedy="choose a suite that a judge rates")

    def provenance(self) -> dict[str, Any]:
        """What determined the scores beyond the settings: parser versions, vocabulary used, pipeline. JSON-able."""
        return {}


def needed(files: Mapping[str, Path], option: str, suite: str) -> Path:
    """The file given for an option.

    Raises:
        BadInputError: it was not given, or does not exist.
    """
    if option not in files:
        raise BadInputError(
            f"the suite '{suite}' needs --{option.replace('_', '-')}", remedy="see `harness score --help`"
        )
    try:
        there = files[option].exists()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise BadInputError(
            f"the file given by --{option.replace('_', '-')} cannot be read: {error}", where=str(files[option])
        ) from None
    if not there:
        raise BadInputError(f"the file given by --{option.replace('_', '-')} does not exist", where=str(files[option]))
    return files[option]


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is 0."""
    below = np.asarray(below, float)
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below != 0)


def harmonic(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Harmonic mean; 0 where both are 0, NaN where one is undefined."""
    both = np.asarray(one + other, float)
    return np.where(both == 0, 0.0, np.divide(2 * one * other, both, out=np.full(both.shape, np.nan), where=both != 0))
