"""Formatting boards for the terminal and as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from rich.text import Text

from harness.analysis.leaderboard.board import Board, Cell, Column, Row, written, written_delta, written_interval
from harness.analysis.leaderboard.marks import BEST, BETTER, FRONTIER, LEVEL, WORSE, Marks, partner_of
from harness.core.grid import Grid
from harness.core.terminal import one_line

_WIDE = 200  # a table of several suites that is wider than this is read more easily as one table per suite
_LETTERS = "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"


def footnotes(board: Board) -> dict[str, str]:
    """Note -> its footnote sign, for all notes of the rows and cells that are shown."""
    texts = [
        note
        for row in board.rows
        for note in (*row.notes, *(text for column in board.columns for text in _notes(row, column)))
    ]
    unique = list(dict.fromkeys(texts))
    return {text: _LETTERS[place] if place < len(_LETTERS) else f"⁽{place + 1}⁾" for place, text in enumerate(unique)}


def _notes(row: Row, column: Column) -> tuple[str, ...]:
    cell = row.cells.get(column)
    return cell.notes if cell else ()


def explained(board: Board) -> list[str]:
    """The lines below a table: what its marks mean, the caption, footnotes and notes."""
    marked = Marks(board)
    shown = {mark for row in board.rows for column in board.columns for mark in marked.of(row, column)}
    legend = ["95 % bootstrap intervals over images", f"{BEST} best of the column"]
    if shown & {BETTER, WORSE}:
        legend.append(
            f"{BETTER} better, {WORSE} worse than the base (paired bootstrap over images, Holm-corrected over the column, p < {LEVEL:g})"
        )
    if FRONTIER in shown:
        pairs = [(column, partner) for column in board.columns if (partner := partner_of(board, column))]
        said, invented = (", ".join(dict.fromkeys(one.title for one in side)) for side in zip(*pairs, strict=True))
        legend.append(f"{FRONTIER} no other row both says more ({said}) and hallucinates less ({invented})")
    if any(row.published for row in board.rows):
        ranked = "ranked with the others" if board.rank_published else "not ranked"
        legend.append(f"published figures are {ranked}; extraction and judge are those of the source")
    notes = [f"{sign} {text}" for text, sign in footnotes(board).items()]
    return ["; ".join(legend), str(board.caption), *notes, *board.notes]


class Written(NamedTuple):
    """A cell as text: value, marks, footnote signs, interval and spread."""

    value: str
    marks: str
    signs: str
    interval: str


def value_of(marked: Marks, row: Row, column: Column, signs: Mapping[str, str]) -> Written:
    """A cell as text; a dash if there is no value."""
    cell = row.cells.get(column)
    if cell is None:
        return Written("–", "", "", "")
    return Written(
        written(cell.value, column.unit),
        marked.of(row, column),
        "".join(signs[text] for text in cell.notes),
        written_interval(cell.ci, column.unit, cell.spread),
    )


def delta_of(row: Row, column: Column) -> str:
    """The difference to the base; "" if there is none."""
    cell = row.cells.get(column)
    return written_delta(cell.delta, column.unit) if cell and cell.delta else ""


def name_of(row: Row, signs: Mapping[str, str]) -> str:
    """The row's name with its footnotes."""
    return row.name + "".join(signs[text] for text in row.notes)


def as_markdown(boards: Sequence[Board], deltas: bool = False) -> str:
    """Boards as Markdown tables with captions."""
    parts = []
    for board in boards:
        signs, marked = footnotes(board), Marks(board)
        headings = ["checkpoint", "method", *(column.heading for column in board.columns)]
        lines = [one_line(f"**{board.model}** on {board.data}"), "", _line(headings), "|" + "---|" * len(headings)]
        for row in board.rows:
            cells = []
            for column in board.columns:
                value, found, own, interval = value_of(marked, row, column, signs)
                texts = [value + found + own, interval, delta_of(row, column) if deltas else ""]
                cells.append(" ".join(text for text in texts if text))
            lines.append(_line([name_of(row, signs), row.method, *cells]))
        parts.append("\n".join([*lines, "", "  \n".join(map(one_line, explained(board)))]))
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in cells) + " |"


_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "−": "$-$", "≤": r"$\leq$", "±": r"$\pm$", "Δ": r"$\Delta$"}
    | {BETTER: r"$^{+}$", WORSE: r"$^{-}$", FRONTIER: r"$^{\diamond}$", "<": "$<$", ">": "$>$"}
    | {sign: f"$^{{{letter}}}$" for sign, letter in zip(_LETTERS, "abcdefghijklmnoprstuvwxyz", strict=True)}
    | {"⁽": "$^{(", "⁾": ")}$"}
)


def _latex(text: str) -> str:
    return one_line(text).translate(_LATEX)


def as_latex(boards: Sequence[Board], deltas: bool = False) -> str:
    """Boards as LaTeX tables for the package booktabs, one per suite: best values bold, intervals in small print below.

    The extractor, parser or judge stands in the caption, if all columns of a suite share it.
    """
    return "\n\n".join(_latex_table(board, *part, deltas) for board in boards for part in by_suite(board)) + "\n"


def _latex_table(board: Board, columns: Sequence[Column], name: str, deltas: bool) -> str:
    signs, marked, short = footnotes(board), Marks(board), bool(_variant(columns))
    head = " & ".join(
        ["checkpoint", *(_latex(column.short_heading if short else column.heading) for column in columns)]
    )
    lines = [r"\begin{table}", r"\centering\small", rf"\begin{{tabular}}{{l{'r' * len(columns)}}}"]
    lines += [r"\toprule", rf"{head} \\", r"\midrule"]
    for row in board.rows:
        if not any(column in row.cells for column in columns):
            continue
        values, *below = [_latex(name_of(row, signs))], [""], [""]
        for column in columns:
            value, marks, notes, interval = value_of(marked, row, column, signs)
            text = rf"\textbf{{{value.translate(_LATEX)}}}" if BEST in marks else value.translate(_LATEX)
            values.append(text + (marks.replace(BEST, "") + notes).translate(_LATEX))
            for line, small in zip(below, (interval, delta_of(row, column) if deltas else ""), strict=True):
                line.append(rf"{{\scriptsize {small.translate(_LATEX)}}}" if small else "")
        lines.append(" & ".join(values) + r" \\")
        lines += [" & ".join(line) + r" \\" for line in below if any(line)]
    words = f"{board.title}: {name}. " + ". ".join(explained(board)).replace(f"{BEST} best", "bold: best")
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{_latex(words)}.}}", r"\end{table}"]
    return "\n".join(lines)


def as_json(boards: Sequence[Board], left_out: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Boards as JSON-able values; every board lists what was left out and why."""
    return [
        {
            "model": board.model,
            "data": board.data,
            "caption": str(board.caption),
            "notes": board.notes,
            "left_out": list(left_out),
            "rows": [
                {
                    "checkpoint": row.name,
                    "method": row.method,
                    "model": row.model,
                    "runs": list(row.runs),
                    "published": row.published or None,
                    "notes": list(row.notes),
                    "metrics": {
                        column.key: _json_cell(marked, row, column, row.cells[column])
                        for column in board.columns
                        if column in row.cells
                    },
                }
                for row in board.rows
            ],
        }
        for board in boards
        for marked in [Marks(board)]
    ]


def _json_cell(marked: Marks, row: Row, column: Column, cell: Cell) -> dict[str, Any]:
    delta = cell.delta and asdict(cell.delta.difference) | {"p_holm": cell.delta.p, "items": cell.delta.n}
    return {
        "value": cell.value,
        "ci": cell.ci,
        "spread": cell.spread,
        "n": cell.n,
        "of": cell.of,
        "higher_is_better": column.higher_is_better,
        "best": row.name in marked.best(column),
        "frontier": row.name in marked.frontier(column),
        "difference_to_base": delta,
        "notes": list(cell.notes),
    }


def as_csv(boards: Sequence[Board]) -> str:
    """One line per checkpoint and metric: value, interval, n, difference to the base."""
    stream = io.StringIO()
    identity = ["model", "data", "checkpoint", "method", "published", "seeds", "suite", "variant", "metric"]
    figures = ["value", "ci_low", "ci_high", "spread", "n", "of", "higher_is_better"]
    tests = ["difference", "difference_low", "difference_high", "p", "p_holm"]
    writer = csv.writer(stream)
    writer.writerow([*identity, *figures, *tests])
    for board in boards:
        for row in board.rows:
            seeds = len(row.runs) or ""
            about = [row.model, board.data, row.name, row.method, row.published, seeds]
            for column in board.columns:
                if cell := row.cells.get(column):
                    values = [cell.value, *(cell.ci or ("", "")), cell.spread, cell.n, cell.of, column.higher_is_better]
                    gap = cell.delta and cell.delta.difference
                    test = [gap.value, *gap.ci, gap.p, cell.delta.p] if gap and cell.delta else [""] * len(tests)
                    line = [*about, column.suite, column.variant, column.metric, *values, *test]
                    writer.writerow(
                        [
                            "" if value is None else one_line(value) if isinstance(value, str) else value
                            for value in line
                        ]
                    )
    return stream.getvalue()


def tables(board: Board, width: int, deltas: bool = False) -> list[Grid]:
    """Tables of a board for the terminal: one, or one per suite if all columns do not fit into `width`."""
    parts = by_suite(board)
    everything = _grid(board, board.columns, f"{board.title}: {', '.join(name for _, name in parts)}", deltas)
    if len(everything.tables(min(width, _WIDE))) == 1:
        return [everything]
    return [_grid(board, columns, f"{board.title}: {name}", deltas) for columns, name in parts]


def by_suite(board: Board) -> list[tuple[list[Column], str]]:
    """(columns, name) of every suite; the name contains what made the numbers, if that is the same for all columns: `halbench [spacy]`."""
    parts = []
    for suite in dict.fromkeys(column.suite for column in board.columns):
        columns = [column for column in board.columns if column.suite == suite]
        variant = _variant(columns)
        parts.append((columns, f"{suite}{f' [{variant}]' if variant else ''}"))
    return parts


def _variant(columns: Sequence[Column]) -> str:
    """What made the numbers of a suite, where it made all of them; "" where each heading must say it."""
    variants = {column.variant for column in columns}
    return variants.pop() if len(variants) == 1 else ""


def _grid(board: Board, columns: Sequence[Column], title: str, deltas: bool) -> Grid:
    """A table of some of a board's columns. The extractor, parser or judge of a suite is in the title, where all columns share it."""
    signs, marked, grid = footnotes(board), Marks(board), Grid(title)
    shared = {
        suite: _variant([one for one in board.columns if one.suite == suite]) for suite in {c.suite for c in columns}
    }
    grid.column("checkpoint", "left", folds=any(row.published for row in board.rows))
    for column in columns:
        grid.column(column.short_heading if shared[column.suite] else column.heading)
    for row in board.rows:
        if not any(column in row.cells for column in columns):
            continue
        line: list[str | Text] = [Text(name_of(row, signs), style="italic" if row.published else "")]
        for column in columns:
            value, marks, notes, interval = value_of(marked, row, column, signs)
            text = Text(value + marks + notes, style="bold green" if BEST in marks else "")
            for small in (interval, delta_of(row, column) if deltas else ""):
                text = text.append(f"\n{small}", style="not bold dim") if small else text
            line.append(text)
        grid.row(*line)
    return grid
