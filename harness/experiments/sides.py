"""What a claim compares of one run: a suite's metric, its change with the pictures, or a margin on held-out pairs; always as counts by
image, so that every difference can be resampled in the same way.

halbench.chair_s        a metric
gap[999].chair_s        the metric with changed pictures (a noise step, blank, shuffled) minus with the original ones
balance.image           the mean margin on held-out pairs at the end of the training, of text or of image preference
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from harness.analysis.declared import benchmark_of
from harness.analysis.leaderboard.board import Board, Column, Row, column_of
from harness.analysis.leaderboard.marks import common_counts, unpaired
from harness.analysis.reliance import Changed, changed_scores
from harness.analysis.scored import items_beside, read_rows, sample_scores, scored
from harness.core.errors import BadInputError, HarnessError
from harness.core.pairing import paired_items
from harness.core.stats import Aggregate, Counts
from harness.core.types import SampleScore
from harness.experiments.graph import Plan
from harness.experiments.keys import BASE
from harness.records.balance_file import HELD_OUT, HeldOutRow, read_held_out
from harness.runs.folders import Run

GAP = re.compile(r"gap\[([A-Za-z0-9]+)\]\.(.+)")
MARGINS = {"balance.text": "text", "balance.image": "image"}
_BEFORE = "clean "
"""Precedes the names of the counts with original pictures, where those with changed ones are beside them."""


@dataclass(frozen=True)
class Side:
    """One side of a claim, for one seed.

    Attributes:
        counts: by image.
        aggregate: from summed counts to values.
        metric: the value's name.
        column: how it is written.
        value: of all images.
        data: name of the data; seeds with the same data are about the same images.
    """

    counts: Counts
    aggregate: Aggregate
    metric: str
    column: Column
    value: float
    data: str = ""


class Missing(Exception):  # noqa: N818 (it is no error of the program: a claim without data says why)
    """Why there is nothing to compare."""


@dataclass
class Scores:
    """Everything that the runs of an experiment measured, by run."""

    plan: Plan
    boards: Sequence[Board]
    runs: Sequence[Run] = ()
    _changed: dict[str, list[Changed]] = field(default_factory=dict)
    _made: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    """Run -> (suite, variant) of the scores that the experiment made."""

    def pair(self, metric: str, arms: tuple[str, str], seed: int) -> tuple[Side, Side]:
        """Both sides of a claim, on the items that both arms have.

        Raises:
            Missing: one of them has no data, or both have no metric in common.
        """
        if metric in MARGINS:
            both = [self._margins(arm, seed) for arm in arms]
            common = both[0].keys() & both[1].keys()
            if not common:
                raise Missing("the trainings have no held-out pair in common")
            left, right = (_margin(MARGINS[metric], [rows[pair] for pair in rows if pair in common]) for rows in both)
            return left, right
        if gap := GAP.fullmatch(metric):
            left, right = _changed_minus_clean([self._gap(gap[1], gap[2], arm, seed) for arm in arms])
            return left, right
        rows = [self._row(arm, seed) for arm in arms]
        column = _common([self._columns(row, metric) for row in rows])
        if column is None:
            raise Missing(f"no common value of {metric}")
        left, right = _of_rows(rows, column)
        return left, right

    def _row(self, arm: str, seed: int) -> Row:
        rows = [row for board in self.boards for row in board.rows if not row.published]
        if arm == BASE:
            rows = [row for row in rows if row.method == BASE and row.model == self.plan.worlds[seed]]
        else:
            rows = [row for row in rows if row.name == self.plan.labels.get((arm, seed))]
        if not rows:
            raise Missing(f"{arm} was not scored")
        return rows[-1]

    def _columns(self, row: Row, metric: str) -> list[Column]:
        """The columns of a metric in which a row has values of the experiment's own extractor, parser or judge.

        Raises:
            Missing: scores of several of these fit the experiment.
        """
        columns = [column for column in row.cells if metric in (column.metric, f"{column.suite}.{column.metric}")]
        run = next((run for run in self.runs if run.name == row.name), None)
        if run is not None and self.plan.scorings:
            if run.name not in self._made:
                records = [score.record for score in scored(run)[0]]
                self._made[run.name] = {(made.suite, made.variant) for made in records if self.plan.made(made)}
            columns = [column for column in columns if (column.suite, column.variant) in self._made[run.name]]
            _check_single(row.name, {column.variant for column in columns})
        return [column for column in columns if row.cells[column].value is not None]

    def _run(self, arm: str, seed: int) -> Run:
        for run in self.runs:
            base = arm == BASE and run.kind == BASE and run.base_label == self.plan.worlds[seed]
            if base or run.name == self.plan.labels.get((arm, seed)):
                return run
        raise Missing(f"{arm} has no complete run")

    def _margins(self, arm: str, seed: int) -> dict[str, HeldOutRow]:
        """The margins of every held-out pair, by pair; they must be those of which the manifest has the mean."""
        run = self._run(arm, seed)
        path = run.path / HELD_OUT
        recorded = ((run.manifest.summary if run.manifest else None) or {}).get("balance")
        if not recorded or not path.exists():
            raise Missing(
                f"{arm} has no margins of single pairs; its training was older, or without train.balance.data"
            )
        try:
            rows = read_held_out(path)
        except BadInputError as error:
            raise Missing(f"{arm}: {HELD_OUT}: {error.problem}") from error
        end = recorded["measured"][-1]
        for kind in MARGINS.values():
            if not math.isclose(_margin(kind, rows).value, end[kind]["value"], rel_tol=1e-6, abs_tol=1e-9):
                raise Missing(f"{arm}: {HELD_OUT} is not what its manifest has the mean of")
        return {row.pair: row for row in rows}

    def _gap(self, change: str, metric: str, arm: str, seed: int) -> tuple[Changed, str]:
        """An arm's scores with changed pictures, and the metric's name in them."""
        run = self._run(arm, seed)
        if run.name not in self._changed:
            self._changed[run.name] = changed_scores(run)[0]
        measured: list[tuple[Changed, str]] = []
        for scores in self._changed[run.name]:
            record = scores.record
            asked = record.pictures.change == change and (not self.plan.data or record.data in self.plan.data)
            named = next((name for name in record.metrics if metric in (name, f"{record.suite}.{name}")), None)
            if asked and named is not None and self.plan.made(record):
                measured.append((scores, named))
        if self.plan.scorings:
            _check_single(run.name, {scores.record.variant for scores, _ in measured})
        if measured:
            return measured[0]
        raise Missing(f"{arm} has no {metric} with pictures changed by {change}")


def _margin(kind: str, rows: Sequence[HeldOutRow]) -> Side:
    counts = Counts.of([SampleScore(row.pair, row.picture, {"text": row.text, "image": row.image}) for row in rows])
    column = Column("balance", "", kind, f"{kind} margin", None, "reward")
    return Side(counts, _means, kind, column, float(_means(counts.totals())[kind]))


def _changed_minus_clean(arms: Sequence[tuple[Changed, str]]) -> list[Side]:
    """For each arm a metric with changed minus with original pictures, on the items that have a verdict for both in all arms."""
    if len({scores.record.data for scores, _ in arms}) > 1:
        raise Missing("the arms were not scored on the same data")
    try:
        benchmark = benchmark_of(arms[0][0].record)
        read = [
            [read_rows(items_beside(path)) for path in (scores.path, scores.path.parents[2] / scores.path.name)]
            for scores, _ in arms
        ]
    except HarnessError as error:
        raise Missing(error.problem) from error
    groups = [{item: row.group for item, row in rows.items()} for of_arm in read for rows in of_arm]
    paired = paired_items(groups, whole_groups=benchmark.whole_groups)
    if not paired:
        raise Missing("no item has a verdict with both pictures in both arms")
    if any(one[item] != groups[0][item] for one in groups for item in paired):
        raise Missing("the same items have different images")
    items = [item for item in groups[0] if item in paired]
    return [
        _gap_of(scores, metric, benchmark.aggregate, [Counts.of(sample_scores(rows, items)) for rows in of_arm])
        for (scores, metric), of_arm in zip(arms, read, strict=True)
    ]


def _gap_of(scores: Changed, metric: str, aggregate: Aggregate, counted: Sequence[Counts]) -> Side:
    """One arm's side; `counted`: with changed and with original pictures, of the same items."""
    record, (changed, clean) = scores.record, counted
    names = (*changed.names, *(f"{_BEFORE}{name}" for name in clean.names))
    counts = Counts(names, changed.clusters, np.concatenate([changed.matrix, clean.matrix], axis=1))

    def gap(totals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        later = aggregate({name: total for name, total in totals.items() if not name.startswith(_BEFORE)})
        first = aggregate(
            {name.removeprefix(_BEFORE): total for name, total in totals.items() if name.startswith(_BEFORE)}
        )
        return {name: np.asarray(later[name]) - np.asarray(first[name]) for name in later}

    column = column_of(record.suite, record.variant, metric, record.metrics[metric], None)
    named = replace(column, metric=f"gap[{record.pictures.change}].{metric}")
    return Side(counts, gap, metric, named, _value(gap, counts, metric), record.data)


def _means(totals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: totals[name] / totals["n"] for name in ("text", "image")}


def _of_rows(rows: Sequence[Row], column: Column) -> list[Side]:
    """Both rows' counts and values on the items that both have, as the leaderboard compares a row with its base."""
    parts = [part for row in rows for part in row.parts.get(column.sheet, ())[:1]]
    if len(parts) < len(rows):
        raise Missing("the scores of an arm lack their items")
    left, right = parts
    if left.world[1] != right.world[1]:
        raise Missing("the arms were not scored on the same data")
    if reason := unpaired(left, right):
        raise Missing(f"the arms were not scored on the same items: {reason}")
    *counts, _ = common_counts(left, right)
    return [
        Side(
            of_arm, part.aggregate, column.metric, column, _value(part.aggregate, of_arm, column.metric), part.world[1]
        )
        for part, of_arm in zip(parts, counts, strict=True)
    ]


def _value(aggregate: Aggregate, counts: Counts, metric: str) -> float:
    return float(aggregate(counts.totals())[metric])


def _check_single(run: str, variants: Collection[str]) -> None:
    """Refuse to choose among scores.

    Raises:
        Missing: there are several variants.
    """
    if len(variants) > 1:
        named = ", ".join(f"[{variant}]" for variant in sorted(variants))
        raise Missing(f"the scores {named} of {run} all fit the experiment's settings and judge")


def _common(both: Sequence[Sequence[Column]]) -> Column | None:
    """The first column that both sides have."""
    left, right = both
    return next((column for column in left if column in right), None)
