"""A board for its template: one table for each suite, which fits on a phone, with drawn intervals."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from harness.analysis.leaderboard import Board, Cell, Column, Row
from harness.analysis.leaderboard.marks import BEST, BETTER, FRONTIER, WORSE, Marks
from harness.analysis.leaderboard.tables import delta_of, explained, footnotes, name_of, value_of
from harness.reports.charts import interval_bar

_TITLES = {
    BEST: "best of the column",
    BETTER: "better than the base",
    WORSE: "worse than the base",
    FRONTIER: "on the frontier",
}


def board_of(board: Board, deltas: bool = False) -> dict[str, Any]:
    """The values for the template `board.html`: a table per suite, and the meaning of the marks."""
    signs, marked = footnotes(board), Marks(board)
    tables = []
    for suite in dict.fromkeys(column.suite for column in board.columns):
        columns = [column for column in board.columns if column.suite == suite]
        bounds = {column: _bounds(board, column) for column in columns}
        rows = [
            {
                "name": name_of(row, signs),
                "published": row.published,
                "cells": [_cell(marked, row, column, bounds[column], signs, deltas) for column in columns],
            }
            for row in board.rows
            if any(column in row.cells for column in columns)
        ]
        tables.append({"suite": suite, "headings": [column.heading for column in columns], "rows": rows})
    words = [line.replace(f"{BEST} best", "★ best") for line in explained(board)]
    return {"title": board.title, "tables": tables, "explained": words}


def _bounds(board: Board, column: Column) -> tuple[float, float]:
    cells = [cell for row in board.rows if (cell := row.cells.get(column)) and cell.value is not None]
    values = [value for cell in cells for value in (cell.value, *(cell.ci or ())) if value is not None]
    return (min(values), max(values)) if values else (0.0, 1.0)


def _cell(
    marked: Marks, row: Row, column: Column, bounds: tuple[float, float], signs: dict[str, str], deltas: bool
) -> dict[str, Any]:
    cell: Cell | None = row.cells.get(column)
    value, marks, footnote, interval = value_of(marked, row, column, signs)
    if cell is None or cell.value is None:
        return {"text": value + footnote, "bar": None}
    delta = delta_of(row, column) if deltas else ""
    return {
        "text": value,
        "best": BEST in marks,
        "marks": [
            {"kind": "worse" if mark == WORSE else "best", "title": _TITLES[mark], "sign": mark.replace(BEST, "★")}
            for mark in marks
        ],
        "footnote": footnote,
        "lines": [interval, *([delta] if delta else [])],
        "bar": Markup(interval_bar(cell.value, cell.ci, *bounds)),
    }
