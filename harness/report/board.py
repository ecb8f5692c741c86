"""A board as HTML tables, one a suite so that a phone can show it, with the intervals drawn."""

from __future__ import annotations

from html import escape

from harness.analysis.leaderboard import Board, Cell, Column, Row
from harness.analysis.leaderboard.marks import BEST, BETTER, FRONTIER, WORSE, Marks
from harness.analysis.leaderboard.tables import delta_of, explained, footnotes, name_of, value_of
from harness.report.charts import interval_bar

_TITLES = {
    BEST: "best of the column",
    BETTER: "better than the base",
    WORSE: "worse than the base",
    FRONTIER: "on the frontier",
}


def board_html(board: Board, deltas: bool = False) -> str:
    """The tables of a board, and below them what their marks mean."""
    signs, marked = footnotes(board), Marks(board)
    parts = [f"<h3>{escape(board.title)}</h3>"]
    for suite in dict.fromkeys(column.suite for column in board.columns):
        columns = [column for column in board.columns if column.suite == suite]
        bounds = {column: _bounds(board, column) for column in columns}
        head = "".join(f"<th scope='col'>{escape(column.heading)}</th>" for column in columns)
        body = ""
        for row in board.rows:
            if not any(column in row.cells for column in columns):
                continue
            cells = "".join(_cell(marked, row, column, bounds[column], signs, deltas) for column in columns)
            kind = " class='published'" if row.published else ""
            body += f"<tr{kind}><th scope='row'>{escape(name_of(row, signs))}</th>{cells}</tr>"
        parts.append(
            f"<div class='scroll' tabindex='0' role='region' aria-label='{escape(suite, quote=True)} table'><table>"
            f"<caption>{escape(suite)}</caption><thead><tr><th scope='col'>checkpoint</th>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>"
        )
    words = "<br>".join(escape(line) for line in explained(board)).replace(f"{BEST} best", "★ best")
    return "".join([*parts, f"<p class='small'>{words}</p>"])


def _bounds(board: Board, column: Column) -> tuple[float, float]:
    cells = [cell for row in board.rows if (cell := row.cells.get(column)) and cell.value is not None]
    values = [value for cell in cells for value in (cell.value, *(cell.ci or ())) if value is not None]
    return (min(values), max(values)) if values else (0.0, 1.0)


def _cell(
    marked: Marks, row: Row, column: Column, bounds: tuple[float, float], signs: dict[str, str], deltas: bool
) -> str:
    cell: Cell | None = row.cells.get(column)
    value, found, own, interval = value_of(marked, row, column, signs)
    if cell is None or cell.value is None:
        return f"<td>{escape(value + own)}</td>"
    stars = "".join(
        f"<span class='{'worse' if mark == WORSE else 'best'}' title='{_TITLES[mark]}'>{mark.replace(BEST, '★')}</span>"
        for mark in found
    )
    small = f"<span class='ci-text'>{escape(interval)}</span>"
    if deltas and (delta := delta_of(row, column)):
        small += f"<span class='ci-text'>{escape(delta)}</span>"
    bar = interval_bar(cell.value, cell.ci, *bounds)
    kind = " class=best" if BEST in found else ""
    return f"<td{kind}><b>{escape(value)}</b>{stars}{escape(own)}{small}{bar}</td>"
