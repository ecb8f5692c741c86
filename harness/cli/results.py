"""`leaderboard`, `compare`, `report` and `plot`: what was scored, for people to look at."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Json, Results, app, emit
from harness.core.terminal import say

if TYPE_CHECKING:
    from harness.runs.folders import Run

Folders = Annotated[list[Path] | None, typer.Argument(help="Runs, or folders of runs. Default: --results.")]


class Group(StrEnum):
    """What has a table of its own."""

    base = "base"
    data = "data"


class Pool(StrEnum):
    """What becomes one row."""

    seeds = "seeds"


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


@app.command()
def leaderboard(
    folders: Folders = None,
    results: Results = Path("results"),
    suite: Annotated[
        str | None, typer.Option("--suite", help="Only these, with commas; * stands for anything.")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="Only these methods; 'base' is none.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only these base models.")] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="These columns instead of the headline ones, by id or title, with commas."),
    ] = None,
    sort: Annotated[str | None, typer.Option("--sort", metavar="METRIC", help="Best of this column first.")] = None,
    group_by: Annotated[
        Group, typer.Option("--group-by", help="A table a base model, or all models together.")
    ] = Group.base,
    pool: Annotated[
        Pool | None, typer.Option("--pool", help="Runs that differ in their seed only are one row: mean ± spread.")
    ] = None,
    delta: Annotated[
        bool, typer.Option("--delta", help="Write the difference to the base, its interval and p.")
    ] = False,
    published: Annotated[bool, typer.Option("--published", help="Figures from papers too, as rows marked so.")] = False,
    rank_published: Annotated[
        bool, typer.Option("--rank-published", help="Let published figures be best, sorted and on the frontier.")
    ] = False,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX for the package booktabs.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write one HTML file, no network.")
    ] = None,
) -> None:
    """Compare everything that was scored: one row a checkpoint, hallucination never without recall and length."""
    from harness.analysis import leaderboard as boards
    from harness.runs.folders import survey

    runs, left_out = survey(folders or [results])
    found = boards.collect(runs, group_by=group_by.value, left_out=left_out)
    if pool:
        found = boards.pool_seeds(found)
    if published or rank_published:
        figures = boards.read_published(boards.published_file(folders or [results]))
        found = boards.add_published(found, figures, rank=rank_published)
    found = boards.select(
        found, suites=_split(suite), methods=_split(method), models=_split(model), metrics=_split(metric)
    )
    if sort:
        found = boards.sort(found, sort)
    for reason in left_out:
        say(f"note: {reason}", err=True)
    if html:
        from harness.report import write_leaderboard

        write_leaderboard(found, html, left_out, deltas=delta)
        say(f"leaderboard: {html.resolve()}", err=True)
    if as_json:
        emit(boards.as_json(found, left_out))
    elif markdown:
        say(boards.as_markdown(found, delta), nl=False)
    elif latex:
        say(boards.as_latex(found, delta), nl=False)
    elif as_csv:
        for note in dict.fromkeys(
            note for board in found for note in board.notes
        ):  # the only writing without a place for them
            say(f"note: {note}", err=True)
        say(boards.as_csv(found), nl=False)
    elif not html:
        from harness.cli.tables import print_boards

        print_boards(found, delta)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Runs by name or folder; each is compared with the first.")],
    suite: Annotated[str | None, typer.Option("--suite", help="Only these, with commas.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All metrics, not only the headline ones.")] = False,
    changes: Annotated[int, typer.Option("--changes", min=0, help="Changed items to show for each suite.")] = 3,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Whether two runs differ by more than luck: paired tests on the same items, and the items that changed most."""
    from harness.analysis.compare import as_json as values_of
    from harness.analysis.compare import compare as run
    from harness.core import registry
    from harness.runs.folders import find_run

    suites = registry.names("benchmarks", suite) if suite else None
    found, reasons = run([find_run(name, results) for name in runs], suites)
    if as_json:
        emit(values_of(found, reasons, changes))
        return
    from harness.cli.compare_tables import print_comparisons

    print_comparisons(found, reasons, changes, every)


@app.command()
def report(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs by name or folder. Default: all under --results.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    samples: Annotated[int, typer.Option("--samples", min=1, help="Show at most about so many items.")] = 2000,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Write one HTML file with leaderboard, charts, and every sample with its picture and marked answers; opens from disk."""
    from harness.report import write_report

    chosen, left_out = _chosen(runs, results)
    found = write_report(chosen, output, most=samples, left_out=left_out)
    if as_json:
        emit(found | {"report": str(output.resolve())})
        return
    for reason in found["left_out"]:
        say(f"left out: {reason}", err=True)
    say(f"report: {output.resolve()} ({found['samples']} of {found['of']} samples, {found['bytes'] / 2**20:.1f} MB)")


def _chosen(names: list[str] | None, results: Path) -> tuple[list[Run], list[str]]:
    """The named runs, or all complete ones of a folder, and which of it are not complete."""
    from harness.runs.folders import find_run, survey

    return ([find_run(name, results) for name in names], []) if names else survey([results])


class Width(StrEnum):
    """How wide a chart is."""

    column = "column"
    page = "page"


@app.command()
def plot(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs by name or folder. Default: all under --results.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the files.")] = Path("plots"),
    format_: Annotated[str, typer.Option("--format", help="svg, pdf, png, with commas.")] = "svg,pdf,png",
    width: Annotated[Width, typer.Option("--width", help="Of a column or a page of a paper.")] = Width.column,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Draw the report's charts for papers: frontier, classes, co-occurrence, yes-ratio, margins and losses."""
    from harness.report.plots import write_plots

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
