"""`leaderboard`, `compare`, `report` and `plot`: show scores."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import OUTPUT_OPTIONS, RESULTS, Json, Results, app, emit
from harness.core.terminal import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.runs.folders import Run

Folders = Annotated[list[Path] | None, typer.Argument(help="Runs, or folders of runs. Default: --results.")]


class Group(StrEnum):
    """What is grouped into one table."""

    base = "base"
    data = "data"


class Pool(StrEnum):
    """Which runs are combined into one row."""

    seeds = "seeds"


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _suites(text: str | None, scored: set[str]) -> list[str]:
    """The parts of `--suite`; a group of suites is replaced by those of its suites that were scored."""
    from harness.core import registry

    suites = []
    for part in _split(text):
        members = [] if part in registry.entries("benchmarks") else registry.group_members(part)
        suites += [name for name in members if name in scored] or [part]
    return suites


def _check_tax(tax: bool, others: Mapping[str, object]) -> None:
    """Refuse options that have no effect on the table of gains and losses.

    Raises:
        BadInputError: one of them is given.
    """
    from harness.core.errors import BadInputError

    if tax and (given := [name for name, value in others.items() if value]):
        raise BadInputError(
            f"--tax prints a table of its own, on which {', '.join(given)} has no effect",
            remedy=f"leave out {', '.join(given)}; --json writes the table as JSON",
        )


@app.command(rich_help_panel=RESULTS)
def leaderboard(
    folders: Folders = None,
    results: Results = Path("results"),
    suite: Annotated[
        str | None, typer.Option("--suite", help="Only these suites, comma-separated; * matches anything.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Only these methods; 'base' is the base model.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only these base models.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="These metrics instead of the headline ones, by id or title; balance: margins on held-out pairs.",
        ),
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="METRIC", help="Sort by this metric, best first.")
    ] = None,
    group_by: Annotated[
        Group, typer.Option("--group-by", help="base: one table per base model; data: all models together.")
    ] = Group.base,
    pool: Annotated[
        Pool | None, typer.Option("--pool", help="Combine runs that differ only in their seed: mean ± sd.")
    ] = None,
    delta: Annotated[
        bool, typer.Option("--delta", help="Print the difference from the base, its interval and p.")
    ] = False,
    tax: Annotated[
        bool,
        typer.Option("--tax", help="Show what each aligned checkpoint gained on hallucination and lost elsewhere."),
    ] = False,
    published: Annotated[bool, typer.Option("--published", help="Add figures from papers, in marked rows.")] = False,
    rank_published: Annotated[
        bool, typer.Option("--rank-published", help="Include published figures in ranks, sorting and frontier.")
    ] = False,
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown.", rich_help_panel=OUTPUT_OPTIONS)
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.", rich_help_panel=OUTPUT_OPTIONS)] = False,
    latex: Annotated[
        bool, typer.Option("--latex", help="Print LaTeX with booktabs.", rich_help_panel=OUTPUT_OPTIONS)
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write an HTML file.", rich_help_panel=OUTPUT_OPTIONS)
    ] = None,
) -> None:
    """Show all scores, one row per checkpoint; hallucination always with recall and length."""
    from harness.analysis import leaderboard as boards
    from harness.runs.folders import survey

    _check_tax(
        tax,
        {
            "--sort": sort, "--delta": delta, "--published": published, "--rank-published": rank_published,
            "--markdown": markdown, "--csv": as_csv, "--latex": latex, "--html": html,
        },
    )  # fmt: skip
    runs, left_out = survey(folders or [results])
    tables = boards.collect(runs, group_by=group_by.value, left_out=left_out)
    metrics = boards.add_balance(tables, runs, _split(metric), left_out)
    if pool:
        tables = boards.pool_seeds(tables)
    if published or rank_published:
        figures = boards.read_published(boards.published_file(folders or [results]))
        tables = boards.add_published(tables, figures, rank=rank_published)
    chosen = _suites(suite, {column.suite for board in tables for column in board.columns})
    tables = boards.select(tables, suites=chosen, methods=_split(method), models=_split(model), metrics=metrics)
    if sort:
        tables = boards.sort(tables, sort)
    for reason in left_out:
        say(f"note: {reason}", err=True)
    if tax:
        taxes = boards.tax(tables)
        if as_json:
            emit(boards.tax_json(taxes, left_out))
        else:
            from harness.cli.tables import print_text_tables

            print_text_tables(boards.tax_tables(taxes))
        return
    if html:
        from harness.reports import write_leaderboard

        write_leaderboard(tables, html, left_out, deltas=delta)
        say(f"leaderboard: {html.resolve()}", err=True)
    if as_json:
        emit(boards.as_json(tables, left_out))
    elif markdown:
        say(boards.as_markdown(tables, delta), nl=False)
    elif latex:
        say(boards.as_latex(tables, delta), nl=False)
    elif as_csv:
        for note in dict.fromkeys(note for board in tables for note in board.notes):  # CSV has no place for notes
            say(f"note: {note}", err=True)
        say(boards.as_csv(tables), nl=False)
    elif not html:
        from harness.cli.tables import print_boards

        print_boards(tables, delta)


@app.command(rich_help_panel=RESULTS)
def compare(
    runs: Annotated[list[str], typer.Argument(help="Runs by name or folder; each is compared with the first.")],
    suite: Annotated[str | None, typer.Option("--suite", help="Only these suites, comma-separated.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All metrics, not only the headline ones.")] = False,
    changes: Annotated[int, typer.Option("--changes", min=0, help="Number of changed items to show per suite.")] = 3,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Test whether runs differ significantly, on the same items, and show the items that changed most."""
    from harness.analysis.compare import as_json as values_of
    from harness.analysis.compare import compare as run
    from harness.core import registry
    from harness.runs.folders import find_run

    suites = registry.names("benchmarks", suite) if suite else None
    comparisons, reasons = run([find_run(name, results) for name in runs], suites)
    if as_json:
        emit(values_of(comparisons, reasons, changes))
        return
    from harness.cli.compare_tables import print_comparisons

    print_comparisons(comparisons, reasons, changes, every)


@app.command(rich_help_panel=RESULTS)
def report(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs by name or folder. Default: all under --results.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    samples: Annotated[int, typer.Option("--samples", min=1, help="Show at most about this many items.")] = 2000,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Write one HTML file: leaderboard, charts, and every sample with its picture and marked answers."""
    from harness.reports import write_report

    chosen, left_out = _chosen(runs, results)
    summary = write_report(chosen, output, most=samples, left_out=left_out)
    if as_json:
        emit(summary | {"report": str(output.resolve())})
        return
    for reason in summary["left_out"]:
        say(f"left out: {reason}", err=True)
    say(
        f"report: {output.resolve()} ({summary['samples']} of {summary['of']} samples, {summary['bytes'] / 2**20:.1f} MB)"
    )


def _chosen(names: list[str] | None, results: Path) -> tuple[list[Run], list[str]]:
    """The named runs, or all complete runs in a folder, and the reasons for those left out."""
    from harness.runs.folders import find_run, survey

    return ([find_run(name, results) for name in names], []) if names else survey([results])


class Width(StrEnum):
    """Width of a chart."""

    column = "column"
    page = "page"


@app.command(rich_help_panel=RESULTS)
def plot(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs by name or folder. Default: all under --results.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")] = Path("plots"),
    format_: Annotated[str, typer.Option("--format", help="svg, pdf, png; comma-separated.")] = "svg,pdf,png",
    width: Annotated[Width, typer.Option("--width", help="Width of a column or of a page.")] = Width.column,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Draw the report's charts for papers: frontier, classes, co-occurrence, yes-ratio, margins and losses."""
    from harness.reports.plots import write_plots

    chosen, left_out = _chosen(runs, results)
    rows, unusable = write_plots(chosen, output, _split(format_.lower()), width.value)
    for reason in [*left_out, *unusable]:
        say(f"left out: {reason}", err=True)
    if as_json:
        emit({"plots": rows, "left_out": [*left_out, *unusable]})
        return
    for row in rows:
        say(f"{row['name']}: {row['caption']}")
    say(f"plots: {len(rows)} in {output.resolve()} ({format_})")
