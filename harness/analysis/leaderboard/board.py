"""What a leaderboard is made of: columns, cells, rows, boards; and how a value is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from harness.analysis.conditions import Conditions, unlike_conditions
from harness.analysis.leaderboard.captions import Caption
from harness.core.stats import Aggregate, Counts, Difference
from harness.core.types import MetricSpec
from harness.records.counts import ItemCounts
from harness.records.score_files import MetricRecord
from harness.records.sums import Sums

ARROW = {True: "↑", False: "↓", None: ""}
BASE = "base"
"""The method of a model that was not aligned."""
World = tuple[str, str]
"""(base model, data): runs of one world started from the same model and answered the same questions, so they can be paired."""
Sheet = tuple[str, str, bool]
"""(suite, variant, whether at matched length): identifies the counts from which several columns are computed."""


@dataclass(frozen=True)
class Column:
    """A metric of a suite; `variant` is what made the numbers and part of the name.

    Attributes:
        ranked: a row can be best in it; False for diagnostics.
        invented_by: the metric that measures hallucination in the same text, see `MetricSpec`.
        matched: it is computed from descriptions that were cut to equal length.
    """

    suite: str
    variant: str
    metric: str
    title: str
    higher_is_better: bool | None
    unit: str
    headline: bool = True
    ranked: bool = field(default=True, compare=False)
    invented_by: str | None = field(default=None, compare=False)
    matched: bool = field(default=False, compare=False)

    @property
    def heading(self) -> str:
        """Title, variant and direction."""
        return f"{self.title}{f'[{self.variant}]' if self.variant else ''} {ARROW[self.higher_is_better]}".strip()

    @property
    def short_heading(self) -> str:
        """Title and direction, for a table whose title names the variant."""
        return f"{self.title} {ARROW[self.higher_is_better]}".strip()

    @property
    def key(self) -> str:
        """Its name in JSON and on the command line: `halbench[spacy].chair_s`."""
        return f"{self.suite}{f'[{self.variant}]' if self.variant else ''}.{self.metric}"

    @property
    def sheet(self) -> Sheet:
        """The counts it is made of."""
        return self.suite, self.variant, self.matched

    def named(self, text: str) -> bool:
        """Whether a user's text names this column: by its key, `suite.metric`, the metric or the title, in any case."""
        names = (self.key, f"{self.suite}.{self.metric}", self.metric, self.title)
        return text.lower() in (name.lower() for name in names)


@dataclass(frozen=True)
class Part:
    """One run's items behind some cells; they are resampled.

    Attributes:
        rules: the suite's settings and files; only parts with equal rules are compared.
        items: the scored items' counts, or where they are stored.
        conditions: only parts whose known conditions are equal are compared.
        whole_groups: see `harness.core.pairing.paired_items`.
        weights: fingerprint of the base model, which tells bases of the same name apart; None if it is not known.
    """

    world: World
    rules: str
    aggregate: Aggregate
    items: ItemCounts | Sums = field(repr=False)
    conditions: Conditions = ()
    whole_groups: bool = False
    weights: str | None = field(default=None, compare=False)

    @property
    def counts(self) -> Counts:
        """Their counts by image; read from disk each time, because hundreds of runs do not fit into memory."""
        return self.items.load().counts


@dataclass(frozen=True)
class Delta:
    """A difference to the base, the number of common items, and p after Holm's correction over the column."""

    difference: Difference
    p: float
    n: int


@dataclass(frozen=True)
class Cell:
    """A value. `spread` is the standard deviation over seeds; `rules` and `conditions` say what it may be ranked with."""

    value: float | None
    ci: tuple[float, float] | None
    n: int
    of: int
    rules: str = ""
    spread: float | None = None
    delta: Delta | None = None
    notes: tuple[str, ...] = ()
    conditions: Conditions = ()


@dataclass
class Row:
    """A checkpoint, the seeds of a configuration, or a published figure (`published` is its source).

    Attributes:
        runs: the runs' names.
        config: the resolved configuration without seeds; runs that share it differ in their seed only.
        parts: the items behind the cells, by sheet.
    """

    name: str
    method: str
    model: str
    runs: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    cells: dict[Column, Cell] = field(default_factory=dict)
    parts: dict[Sheet, tuple[Part, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    published: str = ""


@dataclass
class Board:
    """Rows on one data set (of one base model, or of several), base first.

    Attributes:
        caption: what its scores were made with.
        seedless: (model, data) without the seed of an embedded world: boards that share it can be pooled.
        embedded: the data are an embedded world's, so published figures are not about them.
        notes: remarks about single runs for the reader.
        rank_published: published figures take part in ranks and frontiers.
    """

    model: str
    data: str
    rows: list[Row]
    columns: list[Column]
    caption: Caption
    seedless: World
    embedded: bool = False
    notes: list[str] = field(default_factory=list)
    rank_published: bool = False

    @property
    def title(self) -> str:
        """What it is about."""
        return f"{self.model} on {self.data}"

    def ranked(self, column: Column) -> dict[str, float]:
        """Row name -> value of the rows that may be ranked in a column: those that share the first row's rules and conditions."""
        cells = {
            row.name: cell
            for row in self.rows
            if (cell := row.cells.get(column)) and (self.rank_published or not row.published)
        }
        first = next((cell for row in self.rows if (cell := cells.get(row.name)) and not row.published), None)
        rules, conditions = ({first.rules, ""}, first.conditions) if first else ({""}, ())
        return {
            name: cell.value
            for name, cell in cells.items()
            if cell.value is not None and cell.rules in rules and not unlike_conditions(conditions, cell.conditions)
        }


def column_of(suite: str, variant: str, metric: str, about: MetricRecord, spec: MetricSpec | None) -> Column:
    """The column of a metric in a score record; `spec` is the benchmark's declaration of it, None if it has none.

    What a record of an older schema lacks is taken from the benchmark.
    """
    said = about.title, about.higher_is_better, about.unit, about.headline
    own = (about.kind != "diagnostic", about.invented_by) if about.kind is not None else _declared(spec)
    return _column(suite, variant, metric, *said, *own)


def _declared(spec: MetricSpec | None) -> tuple[bool, str | None]:
    return (spec.kind != "diagnostic", spec.invented_by) if spec else (True, None)


@cache
def _column(*about: Any) -> Column:
    """One object per column, however many cells it has."""
    return Column(*about)


def column_of_spec(suite: str, spec: MetricSpec, variant: str = "", *, matched: bool = False) -> Column:
    """The column of a metric that a benchmark declares."""
    said = spec.title, spec.higher_is_better, spec.unit, spec.headline
    return Column(suite, variant, spec.id, *said, *_declared(spec), matched)


def scale(unit: str) -> tuple[int, int]:
    """(factor, digits) that a unit is written with: percentages with one decimal, points with two, rewards with three."""
    return (100, 1) if unit == "%" else (1, {"points": 2, "ratio": 2, "reward": 3}.get(unit, 1))


def written(value: float | None, unit: str) -> str:
    """A value alone; a dash where it is undefined."""
    factor, digits = scale(unit)
    return "–" if value is None else f"{value * factor:.{digits}f}"


def written_interval(ci: tuple[float, float] | None, unit: str, spread: float | None = None) -> str:
    """`(a–b) ±s`; parts that do not exist are left out."""
    parts = [f"({written(ci[0], unit)}–{written(ci[1], unit)})"] if ci else []
    return " ".join([*parts, *([f"±{written(spread, unit)}"] if spread is not None else [])])


def written_delta(delta: Delta, unit: str) -> str:
    """`Δ −3.1 (−5.0 to −1.2)`."""
    factor, digits = scale(unit)
    value, low, high = (f"{one * factor:+.{digits}f}" for one in (delta.difference.value, *delta.difference.ci))
    p = "p < 0.001" if delta.p < 0.001 else f"p = {delta.p:.3f}"
    return f"Δ {value} ({low} to {high}), {p}".replace("-", "−")
