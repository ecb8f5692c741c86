"""What stands beside a value: the best of its column, a real difference to the base, a place on the frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.leaderboard.board import BASE, Board, Column, Delta, Part, Row, Sheet, World
from harness.stats import SEED, Counts, Difference, difference, gaps, holm

BEST, BETTER, WORSE, FRONTIER = "*", "▲", "▼", "◆"
LEVEL = 0.05
_FRONTIERS = {"object_recall": "chair_s", "mean_length": "chair_s", "generative.cover": "generative.chair"}
"""What a checkpoint says -> what of it is invented. Who says less invents less: neither is read without the other."""


def best(board: Board, column: Column) -> set[str]:
    """Names of the rows that are best in a column, if it has a direction and more than one row a value."""
    found = board.ranked(column)
    if column.higher_is_better is None or len(found) < 2:
        return set()
    top = (max if column.higher_is_better else min)(found.values())
    return {name for name, value in found.items() if value == top}


def frontier(board: Board, column: Column) -> set[str]:
    """Names of the rows that no other beats both in what is said (this column) and in what of it is invented."""
    partner = next(
        (
            other
            for row in board.rows
            for other in row.cells
            if (other.suite, other.variant) == (column.suite, column.variant)
            and other.metric == _FRONTIERS.get(column.metric)
        ),
        None,
    )
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


def marks(board: Board, row: Row, column: Column) -> str:
    """The marks of a cell: best of the column, better or worse than the base beyond chance, on the frontier."""
    cell = row.cells.get(column)
    if cell is None or cell.value is None:
        return ""
    text = BEST if row.name in best(board, column) else ""
    if cell.delta and cell.delta.p < LEVEL and column.higher_is_better is not None:
        text += BETTER if (cell.delta.difference.value > 0) == column.higher_is_better else WORSE
    return text + (FRONTIER if row.name in frontier(board, column) else "")


def add_differences(board: Board) -> None:
    """Test every row against its base, on the items that both have, and correct over the rows of each column.

    Where that cannot be done the cells have no difference, and a note of the board says why.
    """
    bases: dict[tuple[World, Sheet], Part] = {}
    for row in board.rows:
        if row.method == BASE:
            for sheet, parts in row.parts.items():
                for part in parts:
                    bases.setdefault((part.world, sheet), part)
    if not bases:
        board.notes.append("the base was not scored, so nothing is compared with it")
        return
    for sheet in dict.fromkeys(sheet for row in board.rows for sheet in row.parts):
        found: dict[str, tuple[dict[str, Difference], int]] = {}
        for row in board.rows:
            if row.method == BASE or sheet not in row.parts:
                continue
            pairs = [(part, bases.get((part.world, sheet))) for part in row.parts[sheet]]
            if reason := _reason(pairs):
                note = f"{row.name}: {sheet[0]} is not compared with the base: {reason}"
                if note not in board.notes:
                    board.notes.append(note)
                continue
            found[row.name] = _differences([(part, base) for part, base in pairs if base is not None])
        _put(board, sheet, found)


def _reason(pairs: Sequence[tuple[Part, Part | None]]) -> str:
    """Why a row cannot be compared with its base; "" if it can."""
    for part, base in pairs:
        if base is None:
            return "the base was not scored"
        if part.rules != base.rules:
            return "it was scored with other settings or other benchmark files"
        if not part.scores.keys() & base.scores.keys():
            return "they have no item in common"
    return ""


def _differences(pairs: Sequence[tuple[Part, Part]]) -> tuple[dict[str, Difference], int]:
    """Row minus base, the mean over the seeds; and on how many items. Seeds on the same pictures are resampled alike."""
    worlds = list(dict.fromkeys(part.world[1] for part, _ in pairs))
    values: dict[str, list[tuple[float, np.ndarray]]] = {}
    count = images = 0
    for part, base in pairs:
        one, other, items = _common(part, base)
        count += items
        images += len(one.clusters)
        for name, gap in gaps(one, other, part.aggregate, seed=SEED + worlds.index(part.world[1])).items():
            values.setdefault(name, []).append(gap)
    found = {
        name: difference(
            float(np.mean([value for value, _ in own])), np.mean([drawn for _, drawn in own], axis=0), images
        )
        for name, own in values.items()
        if len(own) == len(pairs)
    }
    return {name: one for name, one in found.items() if one is not None}, count


def _common(part: Part, base: Part) -> tuple[Counts, Counts, int]:
    """Counts of both on their common items, and how many these are."""
    items = [item for item in part.scores if item in base.scores]
    if len(items) == len(part.scores) == len(base.scores):
        return part.counts, base.counts, len(items)
    one, other = (Counts.of([own.scores[item] for item in items]) for own in (part, base))
    return one, other, len(items)


def _put(board: Board, sheet: Sheet, found: Mapping[str, tuple[dict[str, Difference], int]]) -> None:
    """Put the differences into the cells, with p corrected over the rows of each column."""
    for column in dict.fromkeys(column for row in board.rows for column in row.cells if column.sheet == sheet):
        own = {
            name: differences[column.metric] for name, (differences, _) in found.items() if column.metric in differences
        }
        corrected = holm({name: one.p for name, one in own.items()})
        for row in board.rows:
            if row.name in own and column in row.cells:
                delta = Delta(own[row.name], corrected[row.name], found[row.name][1])
                row.cells[column] = replace(row.cells[column], delta=delta)
