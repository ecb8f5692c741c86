"""The charts as data: what the report draws as SVG (`charts`) and `harness plot` with matplotlib (`plots`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.analysis.declared import charts_of
from harness.analysis.leaderboard import Board, Cell, Row
from harness.analysis.leaderboard.board import Column, scale
from harness.analysis.reliance import Changed, picture_of
from harness.core.declared import BarChart, FrontierChart
from harness.records.changed_scores import ChangedScoresRecord
from harness.records.training_files import IMAGE, TEXT, LogRow
from harness.reports.gather import SuiteSamples, class_rates, together, training
from harness.runs.folders import Run

_CLASSES, _PAIRS, _BINS = 12, 8, 80
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Point:
    """A checkpoint in the plane, with its 95 % intervals."""

    label: str
    x: float
    y: float
    x_ci: Interval = None
    y_ci: Interval = None


@dataclass(frozen=True)
class Scatter:
    """Checkpoints in the plane of two metrics."""

    points: Sequence[Point]
    x_title: str
    y_title: str


@dataclass(frozen=True)
class Bars:
    """Groups of horizontal bars: one group per row, one bar per series. `intervals` has the form of `rows`; `mark` is a value to compare
    with."""

    rows: Sequence[tuple[str, Sequence[float | None]]]
    series: Sequence[str]
    title: str
    digits: int = 1
    intervals: Sequence[Sequence[Interval]] = ()
    mark: float | None = None


@dataclass(frozen=True)
class Lines:
    """Curves over steps; `stages` has the first step of each training stage."""

    lines: Mapping[str, Sequence[tuple[float, float]]]
    x_title: str
    y_title: str
    stages: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Figure:
    """A chart with its caption; `name` can be a file name."""

    name: str
    caption: str
    content: Scatter | Bars | Lines


def reliance_figures(changed: Sequence[Changed]) -> list[Figure]:
    """For each suite the share of unchanged answers and the first headline metric, for every change of the picture and checkpoint.

    Args:
        changed: scores with changed pictures, see `harness.analysis.reliance.changed_scores`.
    """
    drawn = []
    for key in dict.fromkeys(score.key for score in changed):
        scores = [score for score in changed if score.key == key]
        names = list(dict.fromkeys(score.run for score in scores))
        cells = {(picture_of(score.record), score.run): score.record for score in scores}
        pictures = list(dict.fromkeys(picture for picture, _ in cells))
        of = f"{scores[0].label}, from above: {', '.join(names)}"
        shares = [
            [record.reliance.unchanged if (record := cells.get((picture, name))) else None for name in names]
            for picture in pictures
        ]
        drawn.append(
            Figure(
                _name("unchanged", *key),
                f"Percentage of answers that stay exactly the same when the picture is changed: {of}. Bars are 95 % intervals.",
                Bars(
                    [
                        (picture, [100 * share.value if share else None for share in row])
                        for picture, row in zip(pictures, shares, strict=True)
                    ],
                    names,
                    "unchanged answers, percent",
                    intervals=[[_percent(share.ci) if share else None for share in row] for row in shares],
                ),
            )
        )
        measured = {name for score in scores for name in score.record.reliance.metrics}
        headline = [name for name, about in scores[0].record.metrics.items() if about.headline and name in measured]
        drawn += [_under_change(key, of, names, pictures, cells, metric) for metric in headline[:1]]
    return drawn


def _percent(ci: Sequence[float] | None) -> Interval:
    return (ci[0] * 100, ci[1] * 100) if ci else None


def _under_change(
    key: tuple[str, str, str],
    of: str,
    names: Sequence[str],
    pictures: Sequence[str],
    cells: Mapping[tuple[str, str], ChangedScoresRecord],
    metric: str,
) -> Figure:
    """A metric with each kind of picture; the first group of bars has the original pictures, on the items of the first change."""
    about = next(iter(cells.values())).metrics[metric]
    factor, digits = scale(about.unit)

    def value(record: ChangedScoresRecord | None, which: Literal["clean", "changed"]) -> float | None:
        found = record.reliance.metrics.get(metric) if record else None
        return (found.clean if which == "clean" else found.changed) * factor if found else None

    first = {name: next(record for (_, run), record in cells.items() if run == name) for name in names}
    rows = [("as it is", [value(first[name], "clean") for name in names])]
    rows += [(picture, [value(cells.get((picture, name)), "changed") for name in names]) for picture in pictures]
    title = f"{about.title}{', percent' if about.unit == '%' else ''}"
    caption = f"{about.title} with the original and with changed pictures: {of}. The table has the differences with their intervals."
    return Figure(_name("reliance", *key), caption, Bars(rows, names, title, digits=digits))


def figures(boards: Sequence[Board], suites: Sequence[SuiteSamples], runs: Sequence[Run]) -> list[Figure]:
    """All charts of these scores and training logs."""
    drawn: list[Figure | None] = []
    for board in boards:
        drawn += _declared(board)
    for suite in suites:
        drawn += [_classes(suite), _together(suite)]
    for run in runs:
        drawn += _training(run)
    return [figure for figure in drawn if figure is not None]


def _name(*parts: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(part for part in parts if part).lower()).strip("-")


def _declared(board: Board) -> list[Figure | None]:
    """The charts that the board's suites declare."""
    drawn: list[Figure | None] = []
    for name in dict.fromkeys(column.suite for column in board.columns):
        for chart in charts_of(name):
            drawn.append(
                _frontier(board, name, chart) if isinstance(chart, FrontierChart) else _bars(board, name, chart)
            )
    return drawn


def _frontier(board: Board, suite: str, chart: FrontierChart) -> Figure | None:
    """What is reported against hallucination, for the first variant that has both for two checkpoints."""
    every = dict.fromkeys(column for row in board.rows for column in row.cells if column.suite == suite)
    for said in (column for column in every if column.metric == chart.metric and column.invented_by):
        invented = next((one for one in every if (one.variant, one.metric) == (said.variant, said.invented_by)), None)
        points = [
            _point(row.name, *pair)
            for row in board.rows
            if invented is not None and (pair := _pair(row, invented, said))
        ]
        if invented is not None and len(points) > 1:
            title = f"{suite}{f' [{said.variant}]' if said.variant else ''}, {board.title}"
            return Figure(
                _name("frontier", suite, said.variant, board.model, board.data),
                f"{chart.title}: {title}. Up and to the left is better; bars are 95 % intervals.",
                Scatter(points, _axis(chart.invented, invented), _axis(chart.said, said)),
            )
    return None


def _point(name: str, x: tuple[Cell, Column], y: tuple[Cell, Column]) -> Point:
    return Point(name, _drawn(x[0].value, x[1]), _drawn(y[0].value, y[1]), _interval(*x), _interval(*y))


def _pair(row: Row, *columns: Column) -> list[tuple[Cell, Column]]:
    """The row's cells in these columns; [] if one of them has no value."""
    cells = [(row.cells[column], column) for column in columns if column in row.cells]
    return cells if len(cells) == len(columns) and all(cell.value is not None for cell, _ in cells) else []


def _axis(words: str, column: Column) -> str:
    better = {True: " (higher is better)", False: " (lower is better)", None: ""}[column.higher_is_better]
    return f"{words}, {column.unit}{better}"


def _drawn(value: float | None, column: Column) -> float:
    return (value or 0.0) * scale(column.unit)[0]


def _interval(cell: Cell, column: Column) -> Interval:
    return (_drawn(cell.ci[0], column), _drawn(cell.ci[1], column)) if cell.ci else None


def _bars(board: Board, suite: str, chart: BarChart) -> Figure | None:
    bars = [
        (row.name, cell, column)
        for row in board.rows
        for column, cell in row.cells.items()
        if (column.suite, column.metric) == (suite, chart.metric) and cell.value is not None
    ]
    if not bars:
        return None
    several = len({column.variant for _, _, column in bars}) > 1  # such as answers as text and by likelihood
    rows = [
        (f"{name} [{column.variant}]" if several and column.variant else name, [_drawn(cell.value, column)])
        for name, cell, column in bars
    ]
    unit = bars[0][2].unit
    content = Bars(
        rows,
        [""],
        f"{chart.axis}, {'percent' if unit == '%' else unit}",
        intervals=[[_interval(cell, column)] for _, cell, column in bars],
        mark=None if chart.mark is None else chart.mark * scale(unit)[0],
    )
    caption = chart.caption.replace("{board}", board.title)
    return Figure(_name(chart.name, board.model, board.data), caption, content)


def _of(suite: SuiteSamples) -> str:
    return f"{suite.name}{f' [{suite.variant}]' if suite.variant else ''} on {suite.data}"


def _classes(suite: SuiteSamples) -> Figure | None:
    """The classes that are hallucinated most, over all checkpoints."""
    rates = class_rates(suite)
    wrong = {
        label: sum(one.get(label, (0, 0))[0] for one in rates.values())
        for label in {label for one in rates.values() for label in one}
    }
    labels = sorted((label for label in wrong if wrong[label]), key=lambda label: (-wrong[label], label))[:_CLASSES]
    if not labels:
        return None
    rows = [
        (label, [100 * one[label][0] / one[label][1] if one.get(label, (0, 0))[1] else None for one in rates.values()])
        for label in labels
    ]
    caption = (
        f"Percentage of each class's mentions that are hallucinated: {_of(suite)}, the classes that are hallucinated most. "
        f"From above: {', '.join(rates)}."
    )
    content = Bars(rows, list(rates), "hallucinated mentions by class, percent")
    return Figure(_name("classes", suite.name, suite.variant, suite.data), caption, content)


def _together(suite: SuiteSamples) -> Figure | None:
    """Which objects the first checkpoint (the base, if there is one) hallucinates together with which, and how often the others do."""
    names = list(suite.rows)
    counts = {name: together(suite, name) for name in names}
    pairs = counts[names[0]].most_common(_PAIRS) if names else []
    if not pairs:
        return None
    rows = [
        (f"{invented} beside {seen}", [float(counts[name][seen, invented]) for name in names])
        for (seen, invented), _ in pairs
    ]
    caption = (
        f"Hallucinated objects and the objects in the image: {_of(suite)}, number of times, the most frequent pairs of {names[0]}. "
        f"From above: {', '.join(names)}."
    )
    content = Bars(rows, names, "hallucinated object and object in the image, times", digits=0)
    return Figure(_name("together", suite.name, suite.variant, suite.data), caption, content)


def _training(run: Run) -> list[Figure | None]:
    """Reward margins and losses of a run, with its stages one after another."""
    log = training(run)
    steps: list[float] = []
    stages: list[tuple[float, str]] = []
    begin = last = 0.0
    for row in log:
        if not stages or stages[-1][1] != row.stage:
            begin = last
            stages.append((begin, row.stage))
        last = begin + row.step
        steps.append(last)
    margins = {"margin": "chosen over rejected", "margin_image_rejected": "over the rejected image"}
    others = [key for row in log[:1] for key in row.metrics if key.startswith("margin_") and key not in margins]
    losses = {
        "loss": "loss",
        **{key: key.removeprefix("loss_") for row in log[:1] for key in row.metrics if key.startswith("loss_")},
    }
    drawn = {
        "margins": ("reward margin", margins | {key: key.removeprefix("margin_") for key in others}),
        "loss": ("loss", losses),
    }
    charts: list[Figure | None] = [_balance(run, log, steps, stages)]
    for kind, (title, names) in drawn.items():
        lines = {label: _curve(log, steps, key) for key, label in names.items()}
        lines = {label: points for label, points in lines.items() if len(points) > 1}
        if lines:
            width = max(1, len(log) // _BINS)
            means = f" Means of {width} steps." if width > 1 else ""
            caption = f"{title.capitalize()} of {run.name} during training, stage by stage.{means}"
            content = Lines(lines, "step", title, stages if len(stages) > 1 else ())
            charts.append(Figure(_name(kind, run.name), caption, content))
    return charts


def _balance(
    run: Run, log: Sequence[LogRow], steps: Sequence[float], stages: Sequence[tuple[float, str]]
) -> Figure | None:
    """Margins of text and image preference on held-out pairs over the steps, if they were measured. The starting model's are 0."""
    lines = {}
    for key, label in ((TEXT, "text"), (IMAGE, "image")):
        measured = [
            (step, value) for step, row in zip(steps, log, strict=True) if (value := row.metric(key)) is not None
        ]
        if measured:
            lines[label] = [(0.0, 0.0), *measured]
    if not lines:
        return None
    caption = f"Margins of {run.name} on held-out pairs during training: chosen over rejected answer, original over rejected image."
    content = Lines(lines, "step", "reward margin, held-out pairs", stages if len(stages) > 1 else ())
    return Figure(_name("balance", run.name), caption, content)


def _curve(log: Sequence[LogRow], steps: Sequence[float], key: str) -> list[tuple[float, float]]:
    """(step, value), averaged if there are many; an average never spans two stages."""
    width = max(1, len(log) // _BINS)
    points: list[tuple[float, float]] = []
    block: list[tuple[float, float]] = []
    for place, row in enumerate(log):
        if (value := row.metric(key)) is not None:
            block.append((steps[place], value))
        ends = place + 1 == len(log) or log[place + 1].stage != row.stage
        if block and (len(block) >= width or ends):
            points.append((sum(x for x, _ in block) / len(block), sum(y for _, y in block) / len(block)))
            block = []
    return points
