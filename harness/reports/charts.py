"""The report's charts, as SVG: no script, readable without colour (every series has its own shape or dash and a label)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from harness.reports.figures import Bars, Interval, Lines, Scatter

WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 44
_SHAPES = ("circle", "square", "triangle", "diamond", "cross")
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2")


def svg(content: Scatter | Bars | Lines) -> str:
    """Draw a chart."""
    if isinstance(content, Scatter):
        return scatter(content)
    return bars(content) if isinstance(content, Bars) else curves(content)


class _Axes:
    """Maps values to positions, with round ticks."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], right: int = _RIGHT) -> None:
        self.x, self.y, self.right = _ticks(xs), _ticks(ys), right

    def at(self, x: float, y: float) -> tuple[float, float]:
        wide, high = WIDTH - _LEFT - self.right, HEIGHT - _TOP - _BOTTOM
        share_x = (x - self.x[0]) / (self.x[-1] - self.x[0])
        share_y = (y - self.y[0]) / (self.y[-1] - self.y[0])
        return round(_LEFT + share_x * wide, 1), round(HEIGHT - _BOTTOM - share_y * high, 1)

    def drawn(self, x_title: str, y_title: str) -> list[str]:
        parts = []
        for tick in self.x:
            x, y = self.at(tick, self.y[0])
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{y}"/>')
            parts.append(f'<text class="tick" x="{x}" y="{y + 16}" text-anchor="middle">{tick:g}</text>')
        for tick in self.y:
            x, y = self.at(self.x[0], tick)
            parts.append(f'<line class="grid" x1="{x}" x2="{WIDTH - self.right}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text class="tick" x="{x - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
        middle = HEIGHT / 2
        parts.append(
            f'<text class="axis" x="{(WIDTH + _LEFT - self.right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>'
        )
        parts.append(
            f'<text class="axis" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(y_title)}</text>'
        )
        return parts


def _wide(texts: Iterable[str]) -> int:
    """Approximate width of the longest label, in units."""
    return max((round(6.6 * len(text)) for text in texts), default=0)


def _ticks(values: Sequence[float]) -> list[float]:
    """About five round numbers that cover the values."""
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 1, high + 1
    raw = (high - low) / 4
    size = 10 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw - 1e-12)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def _svg(title: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    return (
        f'<svg role="img" aria-label="{escape(title, quote=True)}" viewBox="0 0 {WIDTH} {height}" '
        f'preserveAspectRatio="xMidYMid meet">{"".join(parts)}</svg>'
    )


def _mark(series: int, x: float, y: float) -> str:
    kind, name = f"series s{series % 5}", _SHAPES[series % 5]
    if name == "circle":
        return f'<circle class="{kind}" cx="{x}" cy="{y}" r="6"/>'
    shapes: dict[str, list[tuple[float, float]]] = {
        "square": [(-5, -5), (5, -5), (5, 5), (-5, 5)],
        "triangle": [(0, -7), (6.5, 5), (-6.5, 5)],
        "diamond": [(0, -7.5), (7.5, 0), (0, 7.5), (-7.5, 0)],
        "cross": [
            (-2, -7),
            (2, -7),
            (2, -2),
            (7, -2),
            (7, 2),
            (2, 2),
            (2, 7),
            (-2, 7),
            (-2, 2),
            (-7, 2),
            (-7, -2),
            (-2, -2),
        ],
    }
    points = " ".join(f"{round(x + dx, 1)},{round(y + dy, 1)}" for dx, dy in shapes[name])
    return f'<polygon class="{kind}" points="{points}"/>'


def scatter(chart: Scatter) -> str:
    """Checkpoints in the plane of two metrics, with their intervals as bars."""
    points, x_title, y_title = chart.points, chart.x_title, chart.y_title
    xs = [value for point in points for value in (point.x, *(point.x_ci or ()))]
    ys = [value for point in points for value in (point.y, *(point.y_ci or ()))]
    axes = _Axes(xs, ys)
    parts = axes.drawn(x_title, y_title)
    taken: list[tuple[float, float]] = []
    for number, point in enumerate(points):
        x, y = axes.at(point.x, point.y)
        ends: list[tuple[tuple[float, float], tuple[float, float]]] = []
        if point.x_ci:
            ends.append(((point.x_ci[0], point.y), (point.x_ci[1], point.y)))
        if point.y_ci:
            ends.append(((point.x, point.y_ci[0]), (point.x, point.y_ci[1])))
        for one, other in ends:
            (x1, y1), (x2, y2) = axes.at(*one), axes.at(*other)
            parts.append(f'<line class="bar s{number % 5}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
        parts.append(_mark(number, x, y))
        right = x < WIDTH * 0.7
        text_y = y - 10
        while any(abs(text_y - other_y) < 14 and abs(x - other_x) < 130 for other_x, other_y in taken):
            text_y -= 14
        taken.append((x, text_y))
        parts.append(
            f'<text class="label" x="{x + (9 if right else -9)}" y="{text_y}" text-anchor="{"start" if right else "end"}">'
            f"{escape(point.label)}</text>"
        )
    return _svg(f"{y_title} against {x_title}", parts)


def bars(chart: Bars) -> str:
    """Groups of horizontal bars: one group per row, one bar per series, with the value at its end."""
    rows, series, digits = chart.rows, chart.series, chart.digits
    height = _TOP + sum(8 + 14 * len(values) for _, values in rows) + 10
    left = min(max(150, 10 + _wide(label for label, _ in rows)), WIDTH // 2)
    wide = WIDTH - left - 50 - min(_wide(series), WIDTH // 4)
    ends = [ci[1] for own in chart.intervals for ci in own if ci]
    most = max([*(value for _, values in rows for value in values if value is not None), *ends], default=1.0) or 1.0
    parts = []
    if chart.mark is not None and chart.mark <= most:
        x = round(left + chart.mark / most * wide, 1)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{height - 10}"/>')
    y = float(_TOP)
    for place, (label, values) in enumerate(rows):
        middle = y + 7 * len(values) + 4
        parts.append(f'<text class="label" x="{left - 8}" y="{middle}" text-anchor="end">{escape(label)}</text>')
        for number, value in enumerate(values):
            name = escape(series[number])
            if value is None:
                parts.append(f'<text class="tick" x="{left}" y="{y + 11}">– {name}</text>')
            else:
                length = round(value / most * wide, 1)
                figure = f"{value:.{digits}f} {name}" if place == 0 or len(rows) < 3 else f"{value:.{digits}f}"
                ci = chart.intervals[place][number] if chart.intervals else None
                end = round(ci[1] / most * wide, 1) if ci else length
                parts.append(
                    f'<rect class="series s{number % 5}" x="{left}" y="{y + 2}" width="{max(length, 1)}" height="10">'
                    f"<title>{name}: {value:.{digits}f}</title></rect>"
                    f'<text class="tick" x="{left + max(length, end) + 5}" y="{y + 11}">{figure}</text>'
                )
                if ci:
                    x = round(left + ci[0] / most * wide, 1)
                    parts.append(f'<line class="ci" x1="{x}" x2="{left + end}" y1="{y + 7}" y2="{y + 7}"/>')
            y += 14
        y += 8
    return _svg(chart.title, parts, int(height))


def curves(chart: Lines) -> str:
    """Lines over steps; each has its own dash, and its name at its end."""
    lines, x_title, y_title = chart.lines, chart.x_title, chart.y_title
    xs = [*(x for points in lines.values() for x, _ in points), *(begin for begin, _ in chart.stages)]
    ys = [y for points in lines.values() for _, y in points]
    axes = _Axes(xs, ys, right=12 + min(_wide(lines), WIDTH // 3))
    parts = axes.drawn(x_title, y_title)
    for begin, stage in chart.stages:
        x, y = axes.at(begin, axes.y[-1])
        parts.append(f'<line class="stage" x1="{x}" x2="{x}" y1="{y}" y2="{HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{x + 4}" y="{y + 10}">{escape(stage)}</text>')
    taken: list[float] = []
    for number, (name, points) in enumerate(lines.items()):
        places = [axes.at(x, y) for x, y in points]
        path = " ".join(f"{x},{y}" for x, y in places)
        dash = f' stroke-dasharray="{_DASHES[number % 5]}"' if _DASHES[number % 5] else ""
        parts.append(f'<polyline class="line s{number % 5}"{dash} points="{path}"/>')
        y = places[-1][1] + 4
        while any(abs(y - other) < 13 for other in taken):
            y += 13
        taken.append(y)
        parts.append(f'<text class="label" x="{places[-1][0] + 6}" y="{y}">{escape(name)}</text>')
    return _svg(f"{y_title} over {x_title}", parts)


def interval_bar(value: float, ci: Interval, low: float, high: float) -> str:
    """A small bar for a table's cell that shows the value and its interval between the column's bounds."""
    span = (high - low) or 1.0

    def place(number: float) -> float:
        return round(2 + 76 * min(max((number - low) / span, 0.0), 1.0), 1)

    line = f'<line class="ci" x1="{place(ci[0])}" x2="{place(ci[1])}" y1="6" y2="6"/>' if ci else ""
    return f'<svg class="mini" viewBox="0 0 80 12" aria-hidden="true">{line}<circle class="dot" cx="{place(value)}" cy="6" r="3"/></svg>'
