"""The report's HTML: everything in one file without external resources; model output is data."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.analysis.balance import balance_records, balance_tables
from harness.analysis.leaderboard import Board, collect
from harness.analysis.reliance import changed_scores, reliance_tables
from harness.analysis.scored import EVALUATE, scored
from harness.analysis.text_table import TextTable
from harness.core.errors import BadInputError
from harness.core.files import atomic_path
from harness.core.pages import render
from harness.core.terminal import json_text
from harness.reports.board import board_of
from harness.reports.charts import svg
from harness.reports.figures import Figure, figures, reliance_figures
from harness.reports.gather import gather, samples
from harness.reports.provenance import provenance
from harness.reports.rejected import rejected_images
from harness.reports.unscored import Answering, add_unscored
from harness.runs.folders import Run, distinct

_FOLDER = Path(__file__).parent
SAMPLES = 2000
"""Above this number, a seeded sample of the items is shown, and the report says so."""


def write_report(
    runs: Sequence[Run],
    output: Path,
    *,
    most: int = SAMPLES,
    left_out: Sequence[str] = (),
    live: str = "",
    running: Sequence[Run] = (),
    unscored: Sequence[Answering] = (),
) -> dict[str, Any]:
    """Write the report of some runs.

    Args:
        runs: complete run folders.
        output: the HTML file; written when it is whole.
        most: samples to show.
        left_out: in words, which runs are not in it and why.
        live: the state of the files that the page shows, if it is served: the page asks for `state` and loads again when that changed.
            Such a page also shows runs of which none was scored yet.
        running: runs that are not complete, whose training curves are drawn.
        unscored: answers that are being generated.

    Returns:
        Its contents: samples shown and total, bytes, and what was left out with the reasons.

    Raises:
        BadInputError: nothing was scored; for a live page, there is nothing to show at all.
    """
    if not (runs or (live and (running or unscored))):
        raise BadInputError("there are no runs to report", remedy=EVALUATE)
    runs = distinct(sorted(runs, key=lambda run: run.aligned))  # base models first
    boards = collect(runs) if not live or any(scored(run)[0] for run in runs) else []
    suites, unusable = gather(runs)
    reasons = [*left_out, *unusable]
    charts = figures(boards, suites, [*runs, *running])  # of scores, so before answers without any are added
    add_unscored(suites, unscored)
    shown_samples, pictures, whole = samples(suites, most)
    rejected, missing = rejected_images(runs)
    reasons += missing
    compared = [changed_scores(run) for run in runs]
    changed = [one for found, _ in compared for one in found]
    reasons += [reason for _, stale in compared for reason in stale]
    measured = [balance_records(run) for run in runs]
    reasons += [reason for _, stale in measured for reason in stale]
    charts += reliance_figures(changed)
    style, script = _part("page.css"), _part("page.js")
    origins, settings = provenance(runs)
    _write(
        output,
        "report.html",
        title="Hallucination report",
        style=style,
        # Only this style and this script run, whatever a response contains.
        policy="default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'" + ("; connect-src 'self'" if live else ""),
        live=live,
        boards=[board_of(board) for board in boards],
        charts=[{"svg": Markup(svg(one.content)), "caption": one.caption} for one in charts],
        diagnostics=[
            (key, title, tables)
            for key, title, tables in (
                (
                    "reliance",
                    "Image reliance",
                    reliance_tables([one.record.model_copy(update={"target": one.run}) for one in changed]),
                ),
                ("balance", "Modality balance", balance_tables([one for found, _ in measured for one in found])),
            )
            if tables
        ],
        rejected=rejected,
        origins=origins,
        settings=settings,
        notes=[*reasons, *(f"{suite.name} on {suite.data}: {suite.note}" for suite in suites if suite.note)],
        shown=len(shown_samples),
        whole=whole,
        data=_embedded({"samples": shown_samples, "pictures": pictures}),
        script=script,
    )
    return {"samples": len(shown_samples), "of": whole, "bytes": output.stat().st_size, "left_out": reasons}


def write_leaderboard(
    boards: Sequence[Board], output: Path, left_out: Sequence[str] = (), *, deltas: bool = False
) -> None:
    """Write boards as one self-contained HTML file without a script."""
    write_document("Leaderboard", boards, [], output, deltas=deltas, notes=left_out)


def write_document(
    title: str,
    boards: Sequence[Board],
    sections: Sequence[Markup],
    output: Path,
    *,
    deltas: bool = False,
    notes: Sequence[str] = (),
) -> None:
    """Write boards with further sections below them as one HTML file without a script.

    Args:
        title: of the page, as text.
        boards: drawn first.
        sections: HTML below the boards.
        output: the file; written when it is whole.
        deltas: whether differences to the base are shown.
        notes: in words, what is not on the page and why.
    """
    style = _part("page.css")
    _write(
        output,
        "document.html",
        title=title,
        style=style,
        policy=f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src '{_digest(style)}'",
        boards=[board_of(board, deltas) for board in boards],
        sections=Markup("").join(sections),
        notes=notes,
    )


def charts_and_tables(figures: Sequence[Figure], tables: Sequence[TextTable]) -> Markup:
    """Charts and the tables below them, as a part of a document."""
    charts = [{"svg": Markup(svg(one.content)), "caption": one.caption} for one in figures]
    return Markup(render(_FOLDER / "templates" / "figures.html", charts=charts, tables=tables))


def _part(name: str) -> Markup:
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))


def _write(output: Path, template: str, **values: Any) -> None:
    page = render(_FOLDER / "templates" / template, **values)
    with atomic_path(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _embedded(value: Any) -> Markup:
    """JSON that cannot end its script element, whatever its content."""
    text = json_text(value, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
