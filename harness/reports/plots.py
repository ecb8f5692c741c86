"""`harness plot`: the report's charts for papers, drawn with matplotlib. Readable without colour and in print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.leaderboard import collect
from harness.analysis.reliance import changed_scores
from harness.analysis.scored import EVALUATE
from harness.core.errors import BadInputError
from harness.core.files import atomic_path
from harness.core.progress import progress
from harness.reports.figures import Bars, Figure, Lines, Scatter, figures, reliance_figures
from harness.reports.gather import gather
from harness.runs.folders import Run, distinct

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("svg", "pdf", "png")
WIDTHS = {"column": 3.35, "page": 6.9}
"""Width in inches of a column and of a page in common two-column styles."""
_COLOURS = ("#0b57b0", "#b3261e", "#7a5200", "#0b6e3c", "#6b3fa0", "#3c4043")
_SHAPES = ("o", "s", "^", "D", "P", "v", "X")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++")
_STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # conferences reject Type 3 fonts
    "svg.fonttype": "none",  # keep text as text
    "svg.hashsalt": "harness",  # reproducible files
}


def write_plots(
    runs: Sequence[Run], folder: Path, formats: Sequence[str], width: str = "column"
) -> tuple[list[dict[str, Any]], list[str]]:
    """Draw every chart of some runs.

    Args:
        runs: complete run folders.
        folder: folder of the files.
        formats: of `FORMATS`.
        width: of `WIDTHS`.

    Returns:
        One row per chart (name, caption, files), and sentences about what was left out and why.

    Raises:
        BadInputError: an unknown format, or nothing to draw.
    """
    if unknown := [one for one in formats if one not in FORMATS]:
        raise BadInputError(f"unknown format '{unknown[0]}'", remedy=f"formats: {', '.join(FORMATS)}")
    runs = distinct(sorted(runs, key=lambda run: run.aligned))  # base models first
    suites, left_out = gather(runs, look_up=False)
    changed = [changed_scores(run) for run in runs]
    left_out += [reason for _, reasons in changed for reason in reasons]
    drawn = [*figures(collect(runs), suites, runs), *reliance_figures([one for found, _ in changed for one in found])]
    if not drawn:
        raise BadInputError("there is nothing to draw", remedy=EVALUATE)
    rows = []
    with progress("charts", len(drawn)) as advance:
        for figure in drawn:
            files = _write(figure, folder, formats, WIDTHS[width])
            rows.append({"name": figure.name, "caption": figure.caption, "files": [str(path) for path in files]})
            advance()
    return rows, left_out


def _write(figure: Figure, folder: Path, formats: Sequence[str], width: float) -> list[Path]:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    paths = []
    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(width, _height(figure.content, width)), layout="constrained")
        axes = canvas.add_subplot()
        content = figure.content
        if isinstance(content, Scatter):
            _scatter(axes, content)
        elif isinstance(content, Bars):
            _bars(axes, content)
        else:
            _lines(axes, content)
        if axes.get_legend_handles_labels()[0]:
            canvas.legend(loc="outside lower center", ncols=2 if width < 5 else 4)
        for kind in formats:
            path = folder / f"{figure.name}.{kind}"
            date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
            with atomic_path(path) as temporary:
                canvas.savefig(temporary, format=kind, dpi=300, metadata=date)
            paths.append(path)
    return paths


def _height(content: Scatter | Bars | Lines, width: float) -> float:
    if not isinstance(content, Bars):
        return min(width * 0.85, 3.6)
    bars = sum(len(values) + 0.8 for _, values in content.rows)
    return 0.7 + 0.095 * bars + 0.09 * len(content.series)


def _scatter(axes: Axes, chart: Scatter) -> None:
    for number, point in enumerate(chart.points):
        errors = [
            [[value - ci[0]], [ci[1] - value]] if ci else None
            for value, ci in ((point.x, point.x_ci), (point.y, point.y_ci))
        ]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.errorbar(
            point.x,
            point.y,
            xerr=errors[0],
            yerr=errors[1],
            fmt=_SHAPES[number % len(_SHAPES)],
            color=colour,
            # Shapes are hollow in the second round, so that fourteen checkpoints can be distinguished without colour.
            markerfacecolor=colour if number < len(_SHAPES) else "white",
            markersize=5,
            elinewidth=0.8,
            capsize=1.5,
            label=point.label,
        )
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(chart.y_title)
    axes.grid(linewidth=0.3, alpha=0.5)
    axes.set_axisbelow(True)


def _bars(axes: Axes, chart: Bars) -> None:
    size = len(chart.series)
    step = size + 0.8
    for number, name in enumerate(chart.series):
        places = [place * step + number for place in range(len(chart.rows))]
        values = [values[number] for _, values in chart.rows]
        axes.barh(
            places,
            [0.0 if value is None else value for value in values],
            height=0.9,
            color=_COLOURS[number % len(_COLOURS)] if size > 1 else "#7d8793",
            hatch=_HATCHES[number % len(_HATCHES)],
            edgecolor="white",
            linewidth=0,
            label=name or None,
        )
        ends = [own[number] for own in chart.intervals] if chart.intervals else [None] * len(values)
        for place, value, ci in zip(places, values, ends, strict=True):
            if ci:
                axes.plot(ci, (place, place), color="black", linewidth=0.8)
            text = "–" if value is None else f"{value:.{chart.digits}f}"
            end = ci[1] if ci else value or 0.0
            axes.annotate(text, (end, place), xytext=(2, 0), textcoords="offset points", va="center", fontsize=5.5)
    if chart.mark is not None:
        axes.axvline(chart.mark, color="black", linewidth=0.6, linestyle=(0, (1, 1.5)))
    axes.set_yticks(
        [place * step + (size - 1) / 2 for place in range(len(chart.rows))], [name for name, _ in chart.rows]
    )
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    axes.set_xlabel(chart.title)


def _lines(axes: Axes, chart: Lines) -> None:
    for number, (name, points) in enumerate(chart.lines.items()):
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, linestyle=dash, label=name)
    for begin, stage in chart.stages:
        axes.axvline(begin, color="#575e68", linewidth=0.5, linestyle=(0, (1, 1.5)))
        axes.annotate(
            stage,
            (begin, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, -6),
            textcoords="offset points",
            fontsize=6,
        )
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(chart.y_title)
