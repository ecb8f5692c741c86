"""Figures from papers, each with its source, as marked rows, which are not ranked by default."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.analysis.leaderboard.board import Board, Cell, Column, Row, column_of_spec
from harness.core import registry
from harness.core.errors import BadInputError, shown
from harness.core.paths import PACKAGE
from harness.core.reading import read_text

_COLUMNS = ("model", "method", "suite", "metric", "value", "unit", "source", "place", "note")


@dataclass(frozen=True)
class Published:
    """One figure: `value` in this tool's unit (rates as fractions); `place` is the table or page of the source."""

    model: str
    method: str
    suite: str
    metric: str
    value: float
    source: str
    place: str
    note: str


def published_file(folders: Sequence[Path]) -> Path:
    """`published.csv` in one of the folders, or else the one that ships with this tool.

    Raises:
        BadInputError: there is none.
    """
    places = [*folders, PACKAGE / "data", PACKAGE.parent / "results"]
    for place in places:
        if (place / "published.csv").is_file():
            return place / "published.csv"
    raise BadInputError("there is no published.csv", where=", ".join(map(str, places)))


def read_published(path: Path) -> list[Published]:
    """The figures of a file.

    Raises:
        BadInputError: a column is missing, a value is not a number, or a figure has no source.
    """
    with io.StringIO(read_text(path, "table of published figures"), newline="") as stream:
        reader = csv.DictReader(stream)
        if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
            raise BadInputError(f"published figures need the columns {', '.join(missing)}", where=str(path))
        figures = []
        try:
            rows = list(reader)
        except csv.Error as error:
            raise BadInputError(
                f"line {reader.line_num} is not CSV: {error}", where=str(path), remedy="fix the line"
            ) from None
        for number, row in enumerate(rows, 2):
            where = f"{path}:{number}"
            try:
                value = float(row["value"])
                if not math.isfinite(value):
                    raise ValueError(row["value"])
            except (TypeError, ValueError):
                raise BadInputError(f"the value is not a number: {shown(row['value'])}", where=where) from None
            if not row["source"]:
                raise BadInputError("the figure has no source", where=where)
            value = value / 100 if row["unit"] == "%" else value
            rest = {name: row[name] or "" for name in ("model", "method", "suite", "metric", "source", "place", "note")}
            figures.append(Published(value=value, **rest))
    return figures


def add_published(boards: Sequence[Board], figures: Sequence[Published], *, rank: bool = False) -> list[Board]:
    """Return boards with the published figures of their suites as additional rows below the measured ones.

    An embedded world's boards are not changed, because published figures are about other pictures.
    """
    extended = []
    for board in boards:
        if board.embedded:
            note = "published figures are for the suites' own pictures, so they are not shown for this data"
            extended.append(replace(board, notes=[*board.notes, note]))
            continue
        columns = _columns(board, figures)
        rows: dict[tuple[str, str, str], Row] = {}
        for figure in figures:
            column = columns.get((figure.suite, figure.metric))
            if column is None:
                continue
            key = (figure.model, figure.method, figure.source)
            if key not in rows:
                rows[key] = _row(figure, taken={row.name for row in rows.values()})
            row = rows[key]
            notes = tuple(note for note in (figure.note,) if note)
            row.cells[column] = Cell(figure.value, None, 0, 0, notes=notes)
            row.notes = (
                *row.notes,
                *(note for note in [f"published: {figure.source}, {figure.place}"] if note not in row.notes),
            )
        shown = [*board.columns, *(column for column in columns.values() if column not in board.columns)]
        suites = list(dict.fromkeys(column.suite for column in shown))
        shown.sort(key=lambda column: suites.index(column.suite))
        extended.append(replace(board, rows=[*board.rows, *rows.values()], columns=shown, rank_published=rank))
    return extended


def _row(figure: Published, taken: Container[str]) -> Row:
    """A row for a model's figures from one source; the name contains the source if several sources report the same model."""
    label = f"{figure.model} {figure.method}".strip()
    name = f"{label} (published)"
    if name in taken:
        name = f"{label} (published by {figure.source})"
    return Row(name, figure.method, figure.model, published=figure.source)


def _columns(board: Board, figures: Sequence[Published]) -> dict[tuple[str, str], Column]:
    """The column for the published figures of a suite and metric: the board's own column, whatever extractor it is of."""
    columns: dict[tuple[str, str], Column] = {}
    suites = {column.suite for column in board.columns}
    for suite, metric in dict.fromkeys((figure.suite, figure.metric) for figure in figures):
        if suite not in suites:
            continue
        of_board = [
            column for row in board.rows for column in row.cells if (column.suite, column.metric) == (suite, metric)
        ]
        shown = [column for column in of_board if column in board.columns]
        specs = {spec.id: spec for spec in registry.load("benchmarks", suite)().metrics} if not of_board else {}
        if of_board or metric in specs:
            columns[suite, metric] = (shown or of_board or [column_of_spec(suite, specs[metric])])[0]
    return columns
