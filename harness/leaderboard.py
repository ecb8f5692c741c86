"""The leaderboard: one row a checkpoint, one column a headline metric with its direction."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import BadInputError
from harness.matched import matched
from harness.runs.folders import Run, list_runs
from harness.runs.scored import read_rows, scored, suite_place

ARROW = {True: "↑", False: "↓", None: ""}
BEST = "*"
_CHAIR = ("chair_s", "chair_s_matched")
_DESCRIBED = frozenset(("chair_s", "chair_i", "mean_length"))
"""A suite with these metrics scores whole descriptions; its mentions have places."""


@dataclass(frozen=True)
class Column:
    """A headline metric of a suite; `variant` is what made the numbers and part of the name."""

    suite: str
    variant: str
    metric: str
    title: str
    higher_is_better: bool | None
    unit: str

    @property
    def heading(self) -> str:
        """Title, variant and direction."""
        return f"{self.title}{f'[{self.variant}]' if self.variant else ''} {ARROW[self.higher_is_better]}".strip()


@dataclass
class Row:
    """A checkpoint with its values."""

    name: str
    method: str
    model: str
    values: dict[Column, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Board:
    """Rows of one base model on one data set, base first, and what the caption says."""

    model: str
    data: str
    rows: list[Row]
    columns: list[Column]
    caption: str

    def best(self, column: Column) -> set[str]:
        """Names of the rows that are best in a column, if it has a direction and more than one row a value."""
        found = {
            row.name: row.values[column]["value"]
            for row in self.rows
            if column in row.values and row.values[column]["value"] is not None
        }
        if column.higher_is_better is None or len(found) < 2:
            return set()
        top = (max if column.higher_is_better else min)(found.values())
        return {name for name, value in found.items() if value == top}


def collect(results: Path, runs: Sequence[Run] | None = None) -> list[Board]:
    """Boards of everything that was scored under a folder, or of some runs.

    Raises:
        BadInputError: nothing was.
    """
    grouped: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    described: dict[tuple[str, str], dict[tuple[str, str], dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    records: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for run in list_runs(results) if runs is None else runs:
        for one in scored(run):
            record = one.record
            key = (record["model"], record["data"])
            records[key].append(record)
            row = grouped[key].setdefault(run.name, Row(run.name, record["method"], record["model"]))
            if record["metrics"].keys() >= _DESCRIBED:
                described[key][record["suite"], record["variant"]][run.name] = one.items
            for name, metric in record["metrics"].items():
                if metric["headline"]:
                    column = Column(
                        record["suite"],
                        record["variant"],
                        name,
                        metric["title"],
                        metric["higher_is_better"],
                        metric["unit"],
                    )
                    row.values[column] = metric | {"n": record["n"], "of": record["of"]}
    if not grouped:
        raise BadInputError("nothing was scored yet", where=str(results), remedy="harness eval --suite halbench,amber")
    boards = []
    for (model, data), rows in sorted(grouped.items()):
        words = [
            _add_matched(rows, suite, variant, paths) for (suite, variant), paths in described[model, data].items()
        ]
        boards.append(_board(model, data, list(rows.values()), records[model, data], [one for one in words if one]))
    return boards


def _add_matched(rows: dict[str, Row], suite: str, variant: str, paths: dict[str, Path]) -> float | None:
    """Put CHAIRs at matched length into the rows; the mean number of words, None where nothing can be matched."""
    if len(paths) < 2 or not all(path.exists() for path in paths.values()):
        return None
    found = matched({name: read_rows(path) for name, path in paths.items()})
    column = Column(suite, variant, "chair_s_matched", "CHAIRs matched", False, "%")
    for name, metrics in found.items():
        metric = metrics["chair_s_matched"]
        rows[name].values[column] = metric | {"of": metric["n"], "higher_is_better": False}
    return next((float(metrics["chair_s_matched"]["words"]) for metrics in found.values()), None)


def _board(model: str, data: str, rows: list[Row], records: list[Mapping[str, Any]], words: Sequence[float]) -> Board:
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    # Beside the plain figure stands the one at matched length.
    columns.sort(key=lambda column: (suite_place(column.suite), column.metric not in _CHAIR))
    rows.sort(key=lambda row: row.method != "base")
    caption = _caption(records)
    if words:
        mean = " / ".join(f"{one:.1f}" for one in words)
        caption += (
            f"; matched: every image's descriptions cut to the words of the shortest in this table ({mean} on average)"
        )
    return Board(model, data, rows, columns, caption)


def _caption(records: list[Mapping[str, Any]]) -> str:
    """n by suite, backend, judge, extraction: what a reader needs to know whether two tables can be compared."""

    def several(values: list[str]) -> str:
        return " / ".join(dict.fromkeys(values))

    sizes = defaultdict(list)
    for record in records:
        part = "" if record["n"] == record["of"] else f" of {record['of']}"
        sizes[record["suite"]].append(f"{record['n']}{part}")
    parts = ["n: " + ", ".join(f"{suite} {several(found)}" for suite, found in sizes.items())]
    parts.append(
        "backend: "
        + several(
            [
                f"{r['serving'].get('distribution') or r['serving']['backend']} on {r['serving'].get('device', '?')}"
                for r in records
            ]
        )
    )
    parts.append(
        "tokens: "
        + ", ".join(
            f"{suite} ≤{several([str(r['sampling']['max_new_tokens']) for r in records if r['suite'] == suite])}"
            for suite in sizes
        )
    )
    if judges := [r["judge"] for r in records if r["judge"]]:
        parts.append(
            "judge: "
            + several([f"{one['judge']} ({one['model']})" if one.get("model") else one["judge"] for one in judges])
        )
    return "; ".join(parts)


def shown(metric: dict[str, Any] | None, unit: str, interval: bool = True) -> str:
    """A value with its 95 % interval: percentages with one decimal, a dash where it is undefined."""
    if metric is None or metric["value"] is None:
        return "–"
    factor, digits = (100, 1) if unit == "%" else (1, 2 if unit == "points" else 1)
    text = f"{metric['value'] * factor:.{digits}f}"
    if interval and metric["ci"]:
        low, high = (bound * factor for bound in metric["ci"])
        text += f" ({low:.{digits}f}–{high:.{digits}f})"
    return text


def cells(board: Board, interval: bool = True) -> tuple[list[str], list[list[str]]]:
    """Headings and text cells; the best of a column carries a `*`."""
    headings = ["checkpoint", "method", *(column.heading for column in board.columns)]
    table = []
    for row in board.rows:
        line = [row.name, row.method]
        for column in board.columns:
            line.append(
                shown(row.values.get(column), column.unit, interval) + (BEST if row.name in board.best(column) else "")
            )
        table.append(line)
    return headings, table


def as_json(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """Boards as JSON-able values."""
    return [
        {
            "model": board.model,
            "data": board.data,
            "caption": board.caption,
            "rows": [
                {
                    "checkpoint": row.name,
                    "method": row.method,
                    "metrics": {
                        f"{column.suite}{f'[{column.variant}]' if column.variant else ''}.{column.metric}": {
                            key: metric[key] for key in ("value", "ci", "n", "of", "higher_is_better")
                        }
                        for column, metric in row.values.items()
                    },
                }
                for row in board.rows
            ],
        }
        for board in boards
    ]


def as_markdown(boards: Sequence[Board]) -> str:
    """Boards as Markdown tables with captions."""
    parts = []
    for board in boards:
        headings, table = cells(board)
        lines = [
            f"**{board.model}** on {board.data}",
            "",
            "| " + " | ".join(headings) + " |",
            "|" + "---|" * len(headings),
        ]
        lines += ["| " + " | ".join(line) + " |" for line in table]
        parts.append(
            "\n".join(
                [*lines, "", f"95 % intervals by bootstrap over images; {BEST} best of the column; {board.caption}."]
            )
        )
    return "\n\n".join(parts) + "\n"


_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "≤": r"$\leq$"}
)


def as_latex(boards: Sequence[Board]) -> str:
    """Boards as LaTeX tables for the package booktabs: best values bold, intervals in small print below."""
    parts = []
    for board in boards:
        head = " & ".join(["checkpoint", *(column.heading.translate(_LATEX) for column in board.columns)])
        lines = [
            r"\begin{table}",
            r"\centering\small",
            rf"\begin{{tabular}}{{l{'r' * len(board.columns)}}}",
            r"\toprule",
            rf"{head} \\",
            r"\midrule",
        ]
        for row in board.rows:
            values, intervals = [row.name.translate(_LATEX)], [""]
            for column in board.columns:
                value, _, interval = shown(row.values.get(column), column.unit).partition(" ")
                value = value.translate(_LATEX)
                values.append(rf"\textbf{{{value}}}" if row.name in board.best(column) else value)
                intervals.append(rf"{{\scriptsize {interval.translate(_LATEX)}}}" if interval else "")
            lines += [" & ".join(values) + r" \\", " & ".join(intervals) + r" \\"]
        caption = f"{board.model} on {board.data}. 95 % intervals by bootstrap over images; {board.caption}."
        lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption.translate(_LATEX)}}}", r"\end{table}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def as_csv(boards: Sequence[Board]) -> str:
    """One line a checkpoint and metric: value, interval, n."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(
        [
            "model",
            "data",
            "checkpoint",
            "method",
            "suite",
            "variant",
            "metric",
            "value",
            "ci_low",
            "ci_high",
            "n",
            "higher_is_better",
        ]
    )
    for board in boards:
        for row in board.rows:
            for column, metric in row.values.items():
                low, high = metric["ci"] or ("", "")
                writer.writerow(
                    [
                        board.model,
                        board.data,
                        row.name,
                        row.method,
                        column.suite,
                        column.variant,
                        column.metric,
                        "" if metric["value"] is None else metric["value"],
                        low,
                        high,
                        metric["n"],
                        metric["higher_is_better"],
                    ]
                )
    return stream.getvalue()


def tables(board: Board, width: int) -> list[Any]:
    """rich tables of a board, one a suite where all columns would not fit into `width`, and the words below them."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    def build(columns: list[Column], title: str) -> Table:
        table = Table(title=title, title_justify="left", caption_justify="left", expand=False)
        table.add_column("checkpoint", no_wrap=True)
        for column in columns:
            table.add_column(escape(column.heading), justify="right")
        for row in board.rows:
            line: list[Any] = [row.name]
            for column in columns:
                best = row.name in board.best(column)
                metric = row.values.get(column)
                text = Text(
                    shown(metric, column.unit, False) + (BEST if best else ""), style="bold green" if best else ""
                )
                interval = shown(metric, column.unit).partition(" ")[2]
                line.append(text.append(f"\n{interval}", style="not bold dim") if interval else text)
            table.add_row(*line)
        return table

    title = f"{board.model} on {board.data}"
    if 24 + 15 * len(board.columns) <= width:
        found = [build(board.columns, title)]
    else:
        by_suite = [
            (suite, [column for column in board.columns if column.suite == suite])
            for suite in dict.fromkeys(c.suite for c in board.columns)
        ]
        found = [build(columns, f"{title}: {suite}") for suite, columns in by_suite]
    # Below the tables, not a caption of the last: that one may be narrow, and the words are about all.
    return [
        *found,
        Text(f"95 % intervals by bootstrap over images; {BEST} best of the column\n{board.caption}\n", style="dim"),
    ]
