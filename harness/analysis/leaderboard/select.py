"""Selecting and sorting rows and columns. This never changes a figure, because differences and matched lengths are computed before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from harness.analysis.leaderboard.board import Board, Column, Row
from harness.core.errors import BadInputError


def select(
    boards: Sequence[Board],
    *,
    suites: Sequence[str] = (),
    methods: Sequence[str] = (),
    models: Sequence[str] = (),
    metrics: Sequence[str] = (),
) -> list[Board]:
    """Keep some rows and columns.

    Args:
        boards: as collected.
        suites, methods, models: names or patterns with `*`, in any case; () for all.
        metrics: keys (`halbench[spacy].chair_s`), `suite.metric`, ids or titles, headline or not; () for the headline ones.

    Raises:
        BadInputError: nothing is left; the message says what there is.
    """
    _known("suite", suites, [column.suite for board in boards for column in board.columns])
    _known("method", methods, [row.method for board in boards for row in board.rows])
    _known("model", models, [row.model for board in boards for row in board.rows])
    for metric in metrics:
        every = [column for board in boards for row in board.rows for column in row.cells]
        if not any(column.named(metric) for column in every):
            raise BadInputError(
                f"no metric '{metric}' was scored", remedy=_list("metrics", [column.key for column in every])
            )
    selected = []
    for board in boards:
        rows = [row for row in board.rows if _fits(row.method, methods) and _fits(row.model, models)]
        columns = _columns(board, rows, metrics)
        columns = [column for column in columns if _fits(column.suite, suites)]
        rows = [row for row in rows if any(column in row.cells for column in columns)]
        if rows and columns:
            selected.append(replace(board, rows=rows, columns=columns))
    if not selected:
        raise BadInputError("no score matches all filters", remedy="remove one of them")
    return selected


def _columns(board: Board, rows: Sequence[Row], metrics: Sequence[str]) -> list[Column]:
    if not metrics:
        return [column for column in board.columns if any(column in row.cells for row in rows)]
    every = dict.fromkeys(column for row in rows for column in row.cells)
    return [column for metric in metrics for column in every if column.named(metric)]


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)


def _known(what: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(_fits(name, [pattern]) for name in names):
            raise BadInputError(f"no {what} '{pattern}' was scored", remedy=_list(f"{what}s", names))


def _list(what: str, names: Sequence[str]) -> str:
    return f"{what} here: {', '.join(sorted(set(names)))}"


def sort(boards: Sequence[Board], metric: str) -> list[Board]:
    """Every board's rows by a metric, best first (largest first where neither direction is better), rows without a value last.

    Published rows come after the measured ones, unless they are ranked.

    Raises:
        BadInputError: no board shows this metric, or a board shows several columns of this name.
    """
    ordered, seen = [], False
    for board in boards:
        columns = [column for column in board.columns if column.named(metric)]
        if len(columns) > 1:
            keys = ", ".join(column.key for column in columns)
            raise BadInputError(f"--sort {metric}: several columns have this name", remedy=f"use one of: {keys}")
        seen = seen or bool(columns)
        ordered.append(replace(board, rows=_sorted(board, columns[0])) if columns else board)
    if not seen:
        every = [column.key for board in boards for column in board.columns]
        raise BadInputError(f"--sort {metric}: this column does not exist", remedy=_list("columns", every))
    return ordered


def _sorted(board: Board, column: Column) -> list[Row]:
    def place(row: Row) -> tuple[bool, bool, float]:
        cell = row.cells.get(column)
        value = cell.value if cell else None
        apart = bool(row.published) and not board.rank_published
        return apart, value is None, (value or 0.0) if column.higher_is_better is False else -(value or 0.0)

    return sorted(board.rows, key=place)
