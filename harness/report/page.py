"""The report's HTML: everything in one file, nothing from elsewhere, model output as data."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from harness.errors import BadInputError
from harness.files import atomic_path
from harness.leaderboard import Board, collect
from harness.report.board import board_html
from harness.report.charts import Point, bars, curves, frontier
from harness.report.gather import Suite, class_rates, gather, samples, together, training
from harness.runs.folders import Run

_FOLDER = Path(__file__).parent
SAMPLES = 2000
"""Above so many, a seeded sample of the items is shown, and the report says so."""


def write_report(
    runs: Sequence[Run], output: Path, *, most: int = SAMPLES, left_out: Sequence[str] = ()
) -> dict[str, Any]:
    """Write the report of some runs.

    Args:
        runs: complete run folders.
        output: the HTML file; written when it is whole.
        most: samples to show.
        left_out: in words, which runs are not in it and why.

    Returns:
        What is in it: samples shown and in all, bytes, and what was left out and why.

    Raises:
        BadInputError: nothing was scored.
    """
    if not runs:
        raise BadInputError("there are no runs to report", remedy="harness eval --suite halbench,amber")
    runs = sorted(runs, key=lambda run: run.aligned)  # base models first
    boards = collect(runs)
    suites, unusable = gather(runs)
    reasons = [*left_out, *unusable]
    shown_samples, pictures, whole = samples(suites, most)
    page = _page(boards, suites, runs, shown_samples, pictures, whole, reasons)
    with atomic_path(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return {"samples": len(shown_samples), "of": whole, "bytes": output.stat().st_size, "left_out": reasons}


def write_leaderboard(
    boards: Sequence[Board], output: Path, left_out: Sequence[str] = (), *, deltas: bool = False
) -> None:
    """Write boards as one HTML file that needs nothing from elsewhere; there is no script in it."""
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    head = _head(
        "Leaderboard", style, f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src '{_digest(style)}'"
    )
    tables = "".join(board_html(board, deltas) for board in boards)
    page = f"{head}<body>\n<header><h1>Leaderboard</h1></header>\n<main>{tables}{_notes(left_out)}</main>\n</body>\n</html>\n"
    with atomic_path(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _head(title: str, style: str, policy: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy, quote=True)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
"""


def _page(
    boards: Sequence[Board],
    suites: Sequence[Suite],
    runs: Sequence[Run],
    shown_samples: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, str],
    whole: int,
    left_out: Sequence[str],
) -> str:
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # Only this style and this script run, whatever a response holds.
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    data = _embedded({"samples": shown_samples, "pictures": pictures})
    sampled = (
        "" if len(shown_samples) == whole else f" A seeded sample of {len(shown_samples):,} of {whole:,} is shown."
    )
    notes = [*left_out, *(f"{suite.name} on {suite.data}: {suite.note}" for suite in suites if suite.note)]
    return f"""{_head("Hallucination report", style, policy)}<body>
<a class="skip" href="#samples">Skip to the samples</a>
<header><h1>Hallucination report</h1>
<nav aria-label="Sections"><a href="#leaderboard">Leaderboard</a> <a href="#charts">Charts</a> <a href="#samples">Samples</a></nav>
</header>
<main>
<section id="leaderboard"><h2>Leaderboard</h2>{"".join(board_html(board) for board in boards)}</section>
<section id="charts"><h2>Charts</h2><div class="charts">{"".join(_charts(boards, suites, runs))}</div></section>
<section id="samples"><h2>Samples</h2>
<p>What each checkpoint said, with its mentions marked: <mark class="correct">✓ in the image</mark>,
<mark class="hallucinated">✗ hallucinated</mark>, <mark class="unjudged">? not judged</mark>.{sampled}
Keys: <kbd>/</kbd> search, <kbd>j</kbd> and <kbd>k</kbd> next and previous sample.</p>
<form id="filters" role="search" aria-label="Filter samples"></form>
<p id="count" role="status" aria-live="polite"></p>
<div id="list"></div>
</section>
{_notes(notes)}
</main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _embedded(value: Any) -> str:
    """JSON that cannot end its script element, whatever it holds."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace").decode("utf-8")
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section id='notes'><h2>Left out</h2><ul>{lines}</ul></section>"


def _charts(boards: Sequence[Board], suites: Sequence[Suite], runs: Sequence[Run]) -> list[str]:
    found = []
    for board in boards:
        points = _points(board, "chair_s", "object_recall")
        if len(points) > 1:
            found.append(
                _figure(
                    frontier(points, "CHAIRs, % (lower is better)", "object recall, % (higher is better)"),
                    f"Hallucination against recall, {board.model} on {board.data}. Up and to the left is better; bars are 95 % intervals.",
                )
            )
        ratios = [
            (row.name, [cell.value * 100])
            for row in board.rows
            for column, cell in row.cells.items()
            if column.suite == "pope" and column.metric == "yes_ratio" and cell.value is not None
        ]
        if ratios:
            caption = f"Share of “yes” on POPE, {board.data}: half of the questions should be answered with yes."
            found.append(_figure(bars(ratios, [""], "POPE yes-ratio, percent"), caption))
    for suite in suites:
        rates = class_rates(suite)
        if rates:
            found.append(_class_chart(suite, rates))
            found += _together(suite)
    for run in runs:
        rows = training(run)
        margins = {
            f"{stage}": [
                (float(row["step"]), float(row["margin"])) for row in rows if row["stage"] == stage and "margin" in row
            ]
            for stage in dict.fromkeys(row["stage"] for row in rows)
        }
        margins = {name: points for name, points in margins.items() if len(points) > 1}
        if margins:
            caption = f"Reward margin of {run.name} while it was trained, stage by stage."
            found.append(_figure(curves(margins, "step of the stage", "reward margin"), caption))
    return found


def _points(board: Board, x: str, y: str) -> list[Point]:
    points = []
    for row in board.rows:
        cells = {column.metric: cell for column, cell in row.cells.items() if column.suite == "halbench"}
        one, other = cells.get(x), cells.get(y)
        if one and other and one.value is not None and other.value is not None:
            points.append(Point(row.name, one.value * 100, other.value * 100, _percent(one.ci), _percent(other.ci)))
    return points


def _percent(ci: Sequence[float] | None) -> tuple[float, float] | None:
    return (ci[0] * 100, ci[1] * 100) if ci else None


def _class_chart(suite: Suite, rates: Mapping[str, Mapping[str, tuple[int, int]]]) -> str:
    """The twelve classes that are invented most, over all checkpoints."""
    wrong = {
        label: sum(one.get(label, (0, 0))[0] for one in rates.values())
        for label in {label for one in rates.values() for label in one}
    }
    labels = sorted(wrong, key=lambda label: (-wrong[label], label))[:12]
    rows = [
        (label, [100 * one[label][0] / one[label][1] if one.get(label, (0, 0))[1] else None for one in rates.values()])
        for label in labels
        if wrong[label]
    ]
    variant = f" [{suite.variant}]" if suite.variant else ""
    caption = (
        f"Of each class's mentions, how many percent are hallucinated: {suite.name}{variant} on {suite.data}. "
        f"From above: {', '.join(rates)}."
    )
    return _figure(bars(rows, list(rates), "hallucinated mentions by class, percent"), caption) if rows else ""


def _together(suite: Suite) -> list[str]:
    first = next(iter(suite.rows))
    pairs = together(suite, first)
    if not pairs:
        return []
    rows = "".join(
        f"<tr><td>{escape(one)}</td><td>{escape(other)}</td><td>{count}</td></tr>" for one, other, count in pairs
    )
    table = (
        "<table><thead><tr><th scope='col'>in the image</th><th scope='col'>invented beside it</th>"
        f"<th scope='col'>times</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    return [_figure(table, f"What {first} invents beside what ({suite.name} on {suite.data}).")]


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"
