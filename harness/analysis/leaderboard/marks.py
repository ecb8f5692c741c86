"""The marks next to a value: best of its column, significant difference to the base, on the frontier."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from harness.analysis.conditions import ANSWERS, PARSER, unlike_conditions
from harness.analysis.leaderboard.board import BASE, Board, Column, Delta, Part, Row, Sheet, World
from harness.analysis.leaderboard.kept import kept
from harness.core import stats
from harness.core.pairing import paired_items
from harness.core.progress import Advance, progress_of_many
from harness.core.stats import SEED, Aggregate, Counts, Difference, aligned, difference, holm, resampled

BEST, BETTER, WORSE, FRONTIER = "*", "▲", "▼", "◆"
LEVEL = 0.05
_Bases = defaultdict[tuple[World, Sheet], list[Part]]
"""The scored bases of each world and sheet, in the order of the rows."""


def best(board: Board, column: Column) -> set[str]:
    """Names of the rows that are best in a column, if the column has a direction and more than one row has a value."""
    values = board.ranked(column)
    if not column.ranked or column.higher_is_better is None or len(values) < 2:
        return set()
    top = (max if column.higher_is_better else min)(values.values())
    return {name for name, value in values.items() if value == top}


def frontier(board: Board, column: Column) -> set[str]:
    """Names of the rows that no other row beats both in what is reported (this column) and in hallucination."""
    partner = partner_of(board, column)
    if partner is None:
        return set()
    said, invented = board.ranked(column), board.ranked(partner)
    points = {name: (said[name], -invented[name]) for name in said if name in invented}
    if len(points) < 2:
        return set()
    return {
        name
        for name, point in points.items()
        if not any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points.values())
    }


def partner_of(board: Board, column: Column) -> Column | None:
    """The hallucination column that belongs to a column, of the same suite and variant; None if there is none."""
    if column.invented_by is None:
        return None
    return next(
        (
            other
            for row in board.rows
            for other in row.cells
            if (other.suite, other.variant, other.metric) == (column.suite, column.variant, column.invented_by)
        ),
        None,
    )


def marks(board: Board, row: Row, column: Column) -> str:
    """The marks of a cell: best of the column, better or worse than the base beyond chance, on the frontier."""
    return Marks(board).of(row, column)


class Marks:
    """The marks of a board's cells. What depends on a whole column is computed once, which matters with hundreds of rows."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._best: dict[Column, set[str]] = {}
        self._frontier: dict[Column, set[str]] = {}

    def best(self, column: Column) -> set[str]:
        """As `best`."""
        if column not in self._best:
            self._best[column] = best(self._board, column)
        return self._best[column]

    def frontier(self, column: Column) -> set[str]:
        """As `frontier`."""
        if column not in self._frontier:
            self._frontier[column] = frontier(self._board, column)
        return self._frontier[column]

    def of(self, row: Row, column: Column) -> str:
        """As `marks`."""
        cell = row.cells.get(column)
        if cell is None or cell.value is None:
            return ""
        text = BEST if row.name in self.best(column) else ""
        if cell.delta and cell.delta.p < LEVEL and column.higher_is_better is not None:
            text += BETTER if (cell.delta.difference.value > 0) == column.higher_is_better else WORSE
        return text + (FRONTIER if row.name in self.frontier(column) else "")


def add_differences(board: Board) -> None:
    """Test every row against its base, on the items that both have, and correct over the rows of each column.

    If that is not possible, the cells have no difference, and a note of the board says why.
    """
    bases: _Bases = defaultdict(list)
    for row in board.rows:
        if row.method == BASE:
            for sheet, parts in row.parts.items():
                for part in parts:
                    bases[part.world, sheet].append(part)
    if not bases:
        board.notes.append("the base was not scored, so no differences are shown")
        return
    sheets = list(dict.fromkeys(sheet for row in board.rows for sheet in row.parts))
    with progress_of_many("differences from the base", sum(len(row.parts) for row in board.rows)) as advance:
        for sheet in sheets:
            _put(board, sheet, _differences_of(board, sheet, bases, advance))


def _differences_of(
    board: Board, sheet: Sheet, bases: _Bases, advance: Advance
) -> dict[str, tuple[dict[str, Difference], int]]:
    """Row name -> every metric's difference to the base, and the number of items; if there is none, a note says why."""
    differences: dict[str, tuple[dict[str, Difference], int]] = {}
    for row in board.rows:
        if sheet in row.parts:
            advance()
        if row.method == BASE or sheet not in row.parts:
            continue
        pairs = [(part, _base_of(part, bases[part.world, sheet])) for part in row.parts[sheet]]
        if reason := _reason(pairs):
            note = f"{row.name}: {sheet[0]} is not compared with the base: {reason}"
            if note not in board.notes:
                board.notes.append(note)
            continue
        differences[row.name] = _differences([(part, base) for part, base in pairs if base is not None])
    return differences


def _base_of(part: Part, bases: Sequence[Part]) -> Part | None:
    """The base of a run among the scored ones of its name: that with the weights which it was trained on. A single one is taken as it is,
    because an embedded world's model has other weights on every machine."""
    if len({base.weights for base in bases}) <= 1:
        return bases[0] if bases else None
    return next((base for base in bases if base.weights == part.weights), None)


def _reason(pairs: Sequence[tuple[Part, Part | None]]) -> str:
    """Why a row cannot be compared with its base; "" if it can."""
    for part, base in pairs:
        if base is None:
            return "the base was not scored"
        if part.rules != base.rules:
            return "it was scored with other settings or other benchmark files"
        if differs := unlike_conditions(part.conditions, base.conditions, PARSER):
            return f"it was scored with {differs}; `harness eval` scores stored answers again, and asks nothing twice"
        if differs := unlike_conditions(part.conditions, base.conditions, ANSWERS):
            return f"it was answered with {differs}"
        if reason := unpaired(part, base):
            return reason
    return ""


def unpaired(part: Part, other: Part) -> str:
    """Why two runs cannot be compared in pairs on their common items; "" if they can."""
    if part.items.items_digest == other.items.items_digest:
        return ""
    images, others = part.items.load().images_of, other.items.load().images_of
    if not images.keys() & others.keys():
        return "they have no item in common"
    if any(images[item] != others[item] for item in images.keys() & others.keys()):
        return "the same items have different images"
    if not paired_items([images, others], whole_groups=part.whole_groups):
        return "no group of questions has the same items in both"
    return ""


def _differences(pairs: Sequence[tuple[Part, Part]]) -> tuple[dict[str, Difference], int]:
    """Row minus base, as the mean over the seeds, and the number of items. Seeds on the same pictures share their resamples."""
    worlds = list(dict.fromkeys(part.world[1] for part, _ in pairs))
    places = [worlds.index(part.world[1]) for part, _ in pairs]
    pooled = kept(
        "differences", pairs, places, lambda: _computed(pairs, places), (stats.gaps, add_differences, paired_items)
    )
    if not all(_as_now(pair, pooled["values"][number]) for number, pair in enumerate(pairs)):
        pooled = _computed(pairs, places)  # code of the suite that is not part of the key has changed
    differences = {
        name: Difference(entry["value"], tuple(entry["ci"]), entry["p"], entry["detectable"])
        for name, entry in pooled["differences"].items()
    }
    return differences, pooled["items"]


def _computed(pairs: Sequence[tuple[Part, Part]], places: Sequence[int]) -> dict[str, Any]:
    """JSON-able: every metric's difference, each pair's values for the first and the second, and the number of items."""
    values: dict[str, list[tuple[float, np.ndarray]]] = {}
    count = images = 0
    for (part, base), place in zip(pairs, places, strict=True):
        counts, base_counts, items = common_counts(part, base)
        count += items
        images += len(counts.clusters)
        for name, gap in _gaps(counts, base_counts, part.aggregate, SEED + place).items():
            values.setdefault(name, []).append(gap)
    pooled = {
        name: difference(
            float(np.mean([value for value, _ in of_seeds])), np.mean([drawn for _, drawn in of_seeds], axis=0), images
        )
        for name, of_seeds in values.items()
        if len(of_seeds) == len(pairs)
    }
    differences = {name: asdict(gap) for name, gap in pooled.items() if gap is not None}
    return {"differences": differences, "values": [_values(pair) for pair in pairs], "items": count}


def _values(pair: tuple[Part, Part]) -> list[dict[str, float | None]]:
    """Every metric of both on all of their items, to detect later that the code computes something else."""
    per_part = []
    for part in pair:
        totals = {name: np.asarray(total) for name, total in part.items.totals.items()}
        values = {name: float(value) for name, value in part.aggregate(totals).items()}
        per_part.append({name: value if math.isfinite(value) else None for name, value in values.items()})
    return per_part


def _as_now(pair: tuple[Part, Part], before: Sequence[Mapping[str, float | None]]) -> bool:
    return _values(pair) == list(before)


def _gaps(counts: Counts, base_counts: Counts, aggregate: Aggregate, seed: int) -> dict[str, tuple[float, np.ndarray]]:
    """As `stats.gaps`; the base's resampled values are cached for the next row, which has the same base."""
    base_counts = aligned(counts, base_counts)
    first, second = aggregate(counts.totals()), aggregate(base_counts.totals())
    drawn, base = aggregate(resampled(counts, seed=seed)), _base(base_counts, aggregate, seed)
    return {name: (float(first[name] - second[name]), drawn[name] - base[name]) for name in first}


_HELD = 6
_bases: dict[Any, Mapping[str, np.ndarray]] = {}


def _base(counts: Counts, aggregate: Aggregate, seed: int) -> Mapping[str, np.ndarray]:
    key = (counts.names, counts.clusters, counts.matrix.tobytes(), aggregate, seed)
    if key not in _bases:
        while len(_bases) >= _HELD:
            del _bases[next(iter(_bases))]
        _bases[key] = aggregate(resampled(counts, seed=seed))
    return _bases[key]


def common_counts(part: Part, base: Part) -> tuple[Counts, Counts, int]:
    """Counts of both on their common items, and the number of these items; `unpaired` says whether there are any."""
    if part.items.items_digest == base.items.items_digest:
        return part.counts, base.counts, part.items.size
    row_items, base_items = part.items.load(), base.items.load()
    paired = paired_items([row_items.images_of, base_items.images_of], whole_groups=part.whole_groups)
    items = [item for item in row_items.items if item in paired]
    return row_items.of_items(items), base_items.of_items(items), len(items)


def _put(board: Board, sheet: Sheet, by_row: Mapping[str, tuple[dict[str, Difference], int]]) -> None:
    """Put the differences into the cells, with p corrected over the rows of each column."""
    for column in dict.fromkeys(column for row in board.rows for column in row.cells if column.sheet == sheet):
        in_column = {
            name: differences[column.metric]
            for name, (differences, _) in by_row.items()
            if column.metric in differences
        }
        corrected = holm({name: difference.p for name, difference in in_column.items()})
        for row in board.rows:
            if row.name in in_column and column in row.cells:
                delta = Delta(in_column[row.name], corrected[row.name], by_row[row.name][1])
                row.cells[column] = replace(row.cells[column], delta=delta)
