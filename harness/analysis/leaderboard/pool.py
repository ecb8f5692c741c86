"""Combining the seeds of one configuration into one row: mean over the seeds, interval, and spread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.analysis.conditions import common_conditions
from harness.analysis.leaderboard.balance import BALANCE
from harness.analysis.leaderboard.board import BASE, Board, Cell, Column, Part, Row, World
from harness.analysis.leaderboard.captions import merged
from harness.analysis.leaderboard.marks import add_differences
from harness.core.files import sha256_json
from harness.core.stats import SEED, bounds, resampled

_MISSING = "no interval and no difference from the base: the items of some seeds are missing"


def pool_seeds(boards: Sequence[Board]) -> list[Board]:
    """Return boards in which runs that differ only in their seed are one row.

    The interval resamples images within each seed, but not the seeds, which are few; their standard deviation is shown next to it.
    """
    together: dict[World, list[Board]] = defaultdict(list)
    for board in boards:
        together[board.seedless].append(board)
    return [_pooled(world, group) for world, group in together.items()]


def _pooled(world: World, boards: Sequence[Board]) -> Board:
    same: dict[str, list[Row]] = defaultdict(list)
    for board in boards:
        for row in board.rows:
            same[sha256_json([row.method, row.config])].append(row)
    groups = sorted(same.values(), key=lambda group: group[0].method != BASE)
    columns = list(dict.fromkeys(column for board in boards for column in board.columns))
    rows = [_row(group, name) for group, name in zip(groups, _names(groups), strict=True)]
    model = world[0] or ", ".join(dict.fromkeys(board.model for board in boards))
    seeds = ", ".join(f"{row.name} {len(row.runs)}" for row in rows if len(row.runs) > 1)
    pooling = (
        f"mean over seeds ({seeds}), 95 % bootstrap interval over each seed's images, ± standard deviation over seeds"
        if seeds
        else "no configuration has more than one seed"
    )
    caption = merged([board.caption for board in boards], pooling)
    notes = list(dict.fromkeys(note for board in boards for note in board.notes))
    pooled = Board(model, world[1], rows, columns, caption, world, boards[0].embedded, notes)
    add_differences(pooled)
    return pooled


def _names(groups: Sequence[Sequence[Row]]) -> list[str]:
    """The method, with the settings in which it differs from the method's other rows; a single run keeps its name."""
    by_method: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for group in groups:
        by_method[group[0].method].append(_flat(group[0].config))
    names = []
    for group in groups:
        method, own, all_ = group[0].method, _flat(group[0].config), by_method[group[0].method]
        differing = [key for key in own if any(other.get(key) != own[key] for other in all_)]
        settings = ", ".join(f"{key.removeprefix('settings.')}={own[key]}" for key in differing)
        plain = group[0].name if len(group) == 1 else method
        names.append(f"{method} ({settings})" if settings and len(group) > 1 else plain)
    return names if len(set(names)) == len(names) else [f"{name} {place + 1}" for place, name in enumerate(names)]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _row(group: Sequence[Row], name: str) -> Row:
    first = group[0]
    row = Row(name, first.method, first.model, tuple(run for one in group for run in one.runs), first.config)
    for sheet in dict.fromkeys(sheet for one in group for sheet in one.parts):
        scored = [one for one in group if any(column.sheet == sheet for column in one.cells)]
        # Without the items of a seed, the interval and the difference would be those of fewer seeds than the value.
        if all(sheet in one.parts for one in scored):
            row.parts[sheet] = tuple(part for one in scored for part in one.parts[sheet])
    drawn: dict[Any, dict[str, np.ndarray]] = {}
    for column in dict.fromkeys(column for one in group for column in one.cells):
        parts = row.parts.get(column.sheet, ())
        if column.sheet not in drawn and len(group) > 1 and parts and all(part.items.images > 1 for part in parts):
            drawn[column.sheet] = _drawn(parts)
        cell = _cell([one.cells[column] for one in group if column in one.cells], column, drawn, len(group))
        # Margins are stored as means: they have no items that could be missing.
        if len(group) > 1 and not parts and cell.value is not None and column.suite != BALANCE:
            cell = replace(cell, notes=(*cell.notes, _MISSING))
        row.cells[column] = cell
    return row


def _drawn(parts: Sequence[Part]) -> dict[str, np.ndarray]:
    """Every metric's resampled values, as the mean over the seeds, [resamples]. Seeds on the same pictures share their resamples."""
    data = list(dict.fromkeys(part.world[1] for part in parts))
    values = [part.aggregate(resampled(part.counts, seed=SEED + data.index(part.world[1]))) for part in parts]
    return {name: np.mean([one[name] for one in values], axis=0) for name in values[0]}


def _cell(cells: Sequence[Cell], column: Column, drawn: Mapping[Any, Mapping[str, np.ndarray]], seeds: int) -> Cell:
    if seeds == 1:
        [only] = cells
        return Cell(
            only.value, only.ci, only.n, only.of, _pooled_rules(cells), notes=only.notes, conditions=only.conditions
        )
    values = [cell.value for cell in cells if cell.value is not None]
    notes = [note for cell in cells for note in cell.notes if cell.n == cell.of]
    if len(values) < seeds:
        notes.append(f"{len(values)} of {seeds} seeds have a value")
    rules, conditions = _pooled_rules(cells), common_conditions([cell.conditions for cell in cells])
    count, whole = sum(cell.n for cell in cells), sum(cell.of for cell in cells)
    if not values:
        return Cell(None, None, count, whole, rules, notes=tuple(dict.fromkeys(notes)), conditions=conditions)
    own = drawn.get(column.sheet, {}).get(column.metric)
    ci = bounds(own) if own is not None and len(values) == seeds else None
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    noted = tuple(dict.fromkeys(notes))
    return Cell(float(np.mean(values)), ci, count, whole, rules, spread, notes=noted, conditions=conditions)


def _pooled_rules(cells: Sequence[Cell]) -> str:
    """Equal for a single run and for seeds with the same rules, so that they are ranked together."""
    return sha256_json(sorted({cell.rules for cell in cells}))
