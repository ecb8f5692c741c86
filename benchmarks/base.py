"""The interface of benchmarks: three required methods, and optional declarations.

A benchmark must define `name`, `title`, `source`, `max_new_tokens`, `metrics`, `items`, `score` and `aggregate`. Everything else is
optional; `Benchmark` documents the defaults. Tables, report, comparison and command line use only this interface, so a plugin's
benchmark is treated like a built-in one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from benchmarks.answer_files import AnswerSet, answer_rows, asked
from benchmarks.answers import AnswerRow, PackedResponses, identity
from harness.core.declared import Chart, MatchedForm, OfflineFile, SettingOption, Verdict, verdict_of
from harness.core.errors import BadInputError, shown
from harness.core.reading import read_records
from harness.core.types import Item, MetricSpec, Response, SampleScore
from harness.datasets.catalogue import compare
from harness.judging.base import Judge, JudgeRequest

Totals = Mapping[str, np.ndarray]
"""Count name -> sums over items, float64, all of the same shape: [] for the point estimate, [R] for R resamples.

Always contains "n", the number of scored items.
"""


class BenchmarkSettings(BaseModel):
    """Settings of a benchmark. Subclasses add their own. They affect scores, so they are saved with every score."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Benchmark(ABC):
    """A benchmark provides questions, scores answers item by item, and turns summed counts into metrics.

    Because `aggregate` is a pure, vectorised function of summed counts, ten thousand bootstrap resamples
    are one matrix product.

    In addition to the three methods, the core reads:

    - of a metric (`MetricSpec`): direction, unit, kind, whether it is a headline metric, and `invented_by`, its partner on the frontier;
    - of an item: `Item.group`, the cluster for resampling, and `truth`, the correct answer for display;
    - of an answer: `verdict`. The default works for yes/no and multiple-choice suites (`said` and `label` in `SampleScore.details`),
      for suites whose `Evidence` marks hallucinations, and for rated suites (`hallucinated_below`);
    - of a judged suite: `prompt_kind`, which puts another prompt than the official one into the metric's name;
    - `offline_files`, `setting_options` and `read_offline` for `harness score`; `charts`; `matched`; `place`;
    - `answer_keys`, `answer_rows` and `match_answers` for `harness import-results`. By default, only answers with the suite's own ids are
      read: JSON lines or a table {item, text}.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    """Paper, venue and year."""
    max_new_tokens: ClassVar[int]
    needs_judge: bool = False
    """Whether `score` needs a judge; may depend on the settings."""
    place: ClassVar[int] = 1000
    """Order in tables: suites with lower numbers come first; equal ones keep the order of scoring."""
    group: ClassVar[str] = ""
    """A name by which `--suite` selects this suite with others. `leaderboard --tax` compares the group "hallucination" with all others."""
    offline_files: ClassVar[Sequence[OfflineFile]] = (
        OfflineFile("data", "a folder with one folder per suite, as for harness eval"),
        OfflineFile("responses", "JSON lines {item, text}"),
    )
    """The files that `read_offline` reads; each is an option of `harness score`."""
    falls_back_to: ClassVar[tuple[str, ...]] = ()
    """Other suites whose folders of data `items` reads where its own lacks something."""
    answer_keys: ClassVar[tuple[str, ...]] = ("text", "response", "answer")
    """Keys of a model's answer in files of other tools, the official one first."""
    setting_options: ClassVar[Sequence[SettingOption]] = ()
    """Settings that are also options of the scoring commands. `--set SUITE.KEY=VALUE` works for every setting."""
    charts: ClassVar[Sequence[Chart]] = ()
    """Charts of metrics in the report. Charts of evidence (classes, pairs) are drawn for every suite with evidence."""
    matched: ClassVar[MatchedForm | None] = None
    """Metrics at matched length; None if responses are not descriptions with evidence."""
    pipelines: ClassVar[Mapping[str, str]] = {}
    """spaCy pipeline -> the part of the official script that needs it; `harness doctor` checks them."""
    whole_groups: ClassVar[bool] = False
    """Whether `score` must be given all items of a group at once, as for "both answers to a pair are right". Such a count belongs to one
    item of the group: resampling draws whole groups."""
    hallucinated_below: ClassVar[float | None] = None
    """A judge's rating (`details.rating`) below this value means a hallucination; None if no judge rates the answers."""
    Settings: ClassVar[type[BenchmarkSettings]] = BenchmarkSettings

    def __init__(self, settings: BenchmarkSettings | None = None) -> None:
        self.settings = settings or self.Settings()
        self.files: dict[str, Path] = {}
        """The files that determined the questions and the ground truth, by name; filled by `reading`."""
        self.notes: list[str] = []
        """Sentences about input that was not read literally; printed below the scores."""

    @contextmanager
    def reading(self, path: Path) -> Iterator[Path]:
        """Context manager for reading a file of the benchmark: records the file, and adds to errors whether it is the official one."""
        self.files[path.name] = path
        try:
            yield path
        except BadInputError as error:
            remedies = [one for one in (compare(path), error.remedy) if one]
            raise BadInputError(error.problem, where=error.where, remedy="; ".join(remedies) or None) from None

    @property
    @abstractmethod
    def metrics(self) -> Sequence[MetricSpec]:
        """All metrics that `aggregate` returns, in display order."""

    @property
    def variant(self) -> str:
        """What made the numbers, such as the extractor, as a part of the metric's name: `CHAIRs[spacy]`. "" for none."""
        return ""

    def prompt_kind(self) -> str:
        """What the variant says about the judge's prompt: "" for the official one, or if there is none."""
        return ""

    def variant_with(self, judge: Judge | None) -> str:
        """The variant, followed by the judge if there is one, and by its prompt if that is not the official one."""
        label = judge.label if judge else ""
        if judge is not None and judge.reads_prompt and (kind := self.prompt_kind()):
            label += f", {kind}"
        return "+".join(part for part in (self.variant, label) if part)

    def missing_files(self, path: Path, what: str = "questions") -> BadInputError:
        """The error for official files that are not there; `path` is the first of them."""
        return BadInputError(
            f"{self.title}'s {what} are missing",
            where=str(path),
            remedy=f"harness data get {self.name}; harness data check {self.name} shows which files are missing",
        )

    @abstractmethod
    def items(self, data: Path) -> list[Item]:
        """Read the questions from a folder in the official file layout.

        Raises:
            BadInputError: a file is missing or damaged; the message names it and the command that downloads it.
        """

    @abstractmethod
    def score(
        self, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None = None
    ) -> list[SampleScore]:
        """Score every item.

        Args:
            items: the questions.
            responses: item id -> response; must contain every item.
            judge: rates the answers, if `needs_judge`.

        Returns:
            One `SampleScore` per item, in the order of `items`.
        """

    @abstractmethod
    def aggregate(self, totals: Totals) -> dict[str, np.ndarray]:
        """Compute the metrics from summed counts.

        Returns:
            Metric id -> value(s), in the shape of the totals; NaN if undefined (0/0). Rates are fractions.
        """

    def truth(self, item: Item) -> str:
        """The correct answer as a text, for the report. Default: `answer` or `label` of the reference, or ""."""
        return str(item.reference.get("answer", item.reference.get("label", "")))

    def verdict(self, row: Mapping[str, Any]) -> Verdict:
        """The verdict on a stored answer. `row` is a row of an item file, with text, counts, evidence and details."""
        return verdict_of(row, self.hallucinated_below)

    def official(self, totals: Totals) -> dict[str, str]:
        """Metric id -> the text that the official script prints for it."""
        return {}

    def official_of(self, scores: Sequence[SampleScore]) -> dict[str, str]:
        """Like `official`, for values that do not follow from the counts, such as unreadable replies."""
        return {}

    offline_judge: Judge | None = None
    """A judge that `read_offline` made from the files (stored reviews)."""

    def read_offline(self, files: Mapping[str, Path]) -> tuple[list[Item], Mapping[str, Response]]:
        """Read items and responses from files, for `harness score`.

        The default reads the items from the suite's folder in `data`, and responses with the key `item`, as in a run's responses.jsonl.

        Args:
            files: declared option -> file or folder, for the given options. The command refuses options that are never looked up,
                because they have no effect; `needed` looks up a required one.

        Raises:
            BadInputError: a required option is missing, or a file is damaged.
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

    def read_answers(self, items: Sequence[Item], files: Sequence[Path]) -> AnswerSet:
        """Read the answers of another tool to the items of `items`, for `harness import-results`.

        Raises:
            BadInputError: a file is damaged, or it is not clear which item a row answers.
        """
        answers = AnswerSet(items)
        for path in files:
            rows = self.answer_rows(path)
            if all("item" in row.doc for row in rows):
                for row in rows:
                    answers.add_asked(identity(row.doc, "item", row.where), row)
                continue
            try:
                self.match_answers(rows, path, answers)
            except BadInputError as error:
                remedy = (
                    error.remedy
                    or f"give the answers to {self.title}'s questions in a form that docs/benchmarks.md names"
                )
                raise BadInputError(error.problem, where=error.where, remedy=remedy) from None
        return answers

    def answer_rows(self, path: Path) -> list[AnswerRow]:
        """The rows of a file with answers, at least one.

        Raises:
            BadInputError: the file cannot be read, or a row has no unambiguous answer.
        """
        return answer_rows(path, self.answer_keys)

    def match_answers(self, rows: Sequence[AnswerRow], path: Path, answers: AnswerSet) -> None:
        """Add each row to `answers` as the answer to an item. Rows with the key `item` are matched without this method.

        The default takes rows that contain the item's id as `question_id`, `id` or `index`, and the item's question.

        Raises:
            BadInputError: it is not clear which item a row answers.
        """
        for row in rows:
            key = next((key for key in ("question_id", "id", "index") if key in row.doc), None)
            if key is None or asked(row) is None:
                raise BadInputError(
                    f"the suite '{self.name}' reads answers with the ids of its items, and this row has no 'item', nor a question_id with "
                    "its question",
                    where=row.where,
                    remedy='write JSON lines {"item": ..., "text": ...}; the ids are in an item file of any run of this suite',
                )
            answers.add_asked(identity(row.doc, key, row.where), row)

    def judge_requests(self, items: Sequence[Item], responses: Mapping[str, Response]) -> list[JudgeRequest]:
        """The requests that `score` sends to a judge, to estimate their cost; [] without a judge."""
        return []

    def read_reply(self, text: str) -> float | None:
        """The rating in a judge's reply, for `harness calibrate`; None if it is missing or ambiguous.

        Raises:
            BadInputError: no judge rates the answers of this suite.
        """
        raise BadInputError(f"the suite '{self.name}' does not use a judge", remedy="choose a suite that a judge rates")

    def provenance(self) -> dict[str, Any]:
        """What determined the scores in addition to the settings: parser versions, vocabulary, pipeline. Serialisable as JSON."""
        return {}


def needed(files: Mapping[str, Path], option: str, suite: str) -> Path:
    """The file given for a required option.

    Raises:
        BadInputError: the option is missing, or the file does not exist.
    """
    if option not in files:
        raise BadInputError(
            f"the suite '{suite}' needs --{option.replace('_', '-')}", remedy="see `harness score --help`"
        )
    try:
        exists = files[option].exists()
    except (OSError, ValueError) as error:  # an invalid file name
        raise BadInputError(
            f"the file given by --{option.replace('_', '-')} cannot be read: {error}", where=str(files[option])
        ) from None
    if not exists:
        raise BadInputError(f"the file given by --{option.replace('_', '-')} does not exist", where=str(files[option]))
    return files[option]


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN if below is 0."""
    below = np.asarray(below, float)
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below != 0)


def harmonic(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Harmonic mean; 0 if both are 0, NaN if one is undefined."""
    both = np.asarray(first + second, float)
    return np.where(
        both == 0, 0.0, np.divide(2 * first * second, both, out=np.full(both.shape, np.nan), where=both != 0)
    )
