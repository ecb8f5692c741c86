"""The report's HTML: everything in one file, nothing from elsewhere, model output as data."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from harness.analysis.leaderboard import Board, collect
from harness.analysis.scored import EVALUATE
from harness.core.errors import BadInputError
from harness.core.files import atomic_path
from harness.core.terminal import json_text, plain
from harness.report.board import board_html
from harness.report.charts import svg
from harness.report.figures import Figure, figures
from harness.report.gather import Suite, gather, samples
from harness.report.rejected import rejected_images
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
        raise BadInputError("there are no runs to report", remedy=EVALUATE)
    runs = sorted(runs, key=lambda run: run.aligned)  # base models first
    boards = collect(runs)
    suites, unusable = gather(runs)
    reasons = [*left_out, *unusable]
    shown_samples, pictures, whole = samples(suites, most)
    rejected, missing = rejected_images(runs)
    reasons += missing
    page = _page(boards, suites, runs, shown_samples, pictures, whole, reasons, rejected)
    with atomic_path(output) as temporary:
        temporary.write_text(plain(page), encoding="utf-8")
    return {"samples": len(shown_samples), "of": whole, "bytes": output.stat().st_size, "left_out": reasons}


def write_leaderboard(
    boards: Sequence[Board], output: Path, left_out: Sequence[str] = (), *, deltas: bool = False
) -> None:
    """Write boards as one HTML file that needs nothing from elsewhere; there is no script in it."""
    write_document("Leaderboard", boards, [_notes(left_out)], output, deltas=deltas)


def write_document(
    title: str, boards: Sequence[Board], sections: Sequence[str], output: Path, *, deltas: bool = False
) -> None:
    """Write boards with further sections below them as one HTML file without a script.

    Args:
        title: of the page, as text.
        boards: drawn first.
        sections: HTML, whose texts are escaped already.
        output: the file; written when it is whole.
        deltas: whether differences to the base are written out.
    """
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    head = _head(
        escape(title), style, f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src '{_digest(style)}'"
    )
    tables = "".join(board_html(board, deltas) for board in boards)
    page = f"{head}<body>\n<header><h1>{escape(title)}</h1></header>\n<main>{tables}{''.join(sections)}</main>\n</body>\n</html>\n"
    with atomic_path(output) as temporary:
        temporary.write_text(plain(page), encoding="utf-8")


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
    rejected: str,
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
    # Everything else stands above the samples: their list grows while one scrolls.
    link = '<a href="#rejected">Rejected images</a> ' if rejected else ""
    return f"""{_head("Hallucination report", style, policy)}<body>
<a class="skip" href="#samples">Skip to the samples</a>
<header><h1>Hallucination report</h1>
<nav aria-label="Sections"><a href="#leaderboard">Leaderboard</a> <a href="#charts">Charts</a> {link}<a href="#samples">Samples</a></nav>
</header>
<main>
<section id="leaderboard"><h2>Leaderboard</h2>{"".join(board_html(board) for board in boards)}</section>
<section id="charts"><h2>Charts</h2><div class="charts">{"".join(map(_chart, figures(boards, suites, runs)))}</div></section>
{rejected}
{_notes(notes)}
<section id="samples"><h2>Samples</h2>
<p>What each checkpoint said, with its mentions marked: <mark class="correct">✓ in the image</mark>,
<mark class="hallucinated">✗ hallucinated</mark>, <mark class="unjudged">? not judged</mark>.{sampled}
Keys: <kbd>/</kbd> search, <kbd>j</kbd> and <kbd>k</kbd> next and previous sample.</p>
<form id="filters" role="search" aria-label="Filter samples"></form>
<p id="count" role="status" aria-live="polite"></p>
<div id="list"></div>
</section>
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
    text = json_text(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section id='notes'><h2>Left out</h2><ul>{lines}</ul></section>"


def _chart(figure: Figure) -> str:
    return f"<figure>{svg(figure.content)}<figcaption>{escape(figure.caption)}</figcaption></figure>"
