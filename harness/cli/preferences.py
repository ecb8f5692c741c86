"""`harness data check` for preference data: which arguments are preference data, the report, and its printed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from aligners.preferences.options import DataOptions
from harness.cli.grids import print_grid
from harness.core.grid import Grid
from harness.core.terminal import Console
from harness.datasets.catalogue import Found, catalogue

_BLOCKS = " ▁▂▃▄▅▆▇█"
_SHOWN = 8
_TEXT = 120
"""Maximum number of characters of a text of the first pair."""


@dataclass(frozen=True)
class CheckOptions:
    """The command's options."""

    model: str | None
    max_length: int | None
    format_name: str | None
    on_error: Literal["fail", "skip"]
    allow_download: bool
    limit: int | None
    root: Path | None
    options: DataOptions


def divided(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the arguments into data sets of the catalogue and preference data. A name in the catalogue always means the data set.

    Raises:
        UnknownNameError: neither.
    """
    from aligners.preferences.folder_files import type_of
    from aligners.preferences.formats import FORMATS
    from harness.core.worlds import world_of_pairs
    from harness.datasets.catalogue import find

    sets, pairs = [], []
    for name in names:
        path = Path(name)
        known = name in catalogue()
        if not known and (
            _exists(path)
            or type_of(name)
            or len(path.parts) > 1
            or name.partition(":")[0] in FORMATS
            or world_of_pairs(name)
        ):
            pairs.append(name)
        else:
            sets.append(find(name).name)
    return sets, pairs


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a text that is too long for a name
        return False


def is_ready(name: str, states: Sequence[Found]) -> bool:
    """Whether a data set of the catalogue is preference data and is downloaded."""
    from aligners.preferences import KNOWN

    return name in KNOWN and all(one.state == "there" for one in states)


def report(name: str, asked: CheckOptions) -> dict[str, Any]:
    """The report on one source. See `aligners.preferences.check.check_preferences`."""
    from aligners.preferences.check import CheckRequest, check_preferences
    from aligners.preferences.overlap import evaluation_sets
    from harness.core.config import TrainSettings
    from harness.core.paths import cache_folder
    from harness.core.worlds import pairs_of
    from harness.models import load_processor, resolve

    return check_preferences(
        CheckRequest(
            source=pairs_of(name, None),
            processor=load_processor(resolve(asked.model).locate()) if asked.model else None,
            max_length=asked.max_length or TrainSettings().max_length,
            on_error=asked.on_error,
            cache=cache_folder(),
            format_name=asked.format_name,
            allow_download=asked.allow_download,
            limit=asked.limit,
            options=asked.options,
            evaluation=evaluation_sets(asked.root or cache_folder() / "benchmarks"),
        )
    ) | {"model": asked.model}


def print_reports(reports: Sequence[dict[str, Any]]) -> None:
    """Print a summary of the reports; `--json` has everything."""
    console = Console()
    for report in reports:
        console.print(
            f"[bold]{escape(report['source'])}[/bold]  format {', '.join(report['formats'])}", highlight=False
        )
        console.print(_counts(report))
        if report["tokens"]:
            _print_tokens(console, report)
        _print_overlap(console, report["overlap"])
        _print_bad(console, report["bad"])
        for warning in report["warnings"]:
            console.print(f"[yellow]note:[/yellow] {escape(warning)}", highlight=False)
        for fatal in report["fatal"]:
            console.print(f"[red]align would stop:[/red] {escape(fatal)}", highlight=False)
        if not report["fatal"]:
            console.print("[green]align would accept these data[/green]")


def _counts(report: dict[str, Any]) -> Table:
    images, duplicates, words = report["images"], report["duplicates"], report["words"]
    edges = images["longest_edge"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    first = report["first"]
    columns = [", ".join(f"{part} from {column}" for part, column in one.items()) for one in report["taken"].values()]
    rows = {
        "columns": "; ".join(columns),
        "first pair": f"{first['where']}, {first['image']}",
        **{f"  {number} {turn['role']}": _turn(turn) for number, turn in enumerate(first.get("earlier_turns", ()), 1)},
        **{f"  {part}": _beginning(first[part]) for part in ("prompt", "chosen", "rejected")},
        "records": f"{report['records']:,}, of which {report['usable']:,} can be used"
        + (f"; {report['with_earlier_turns']:,} have earlier turns" if report["with_earlier_turns"] else ""),
        "images": f"{images['distinct']:,} different, longest edge {edges['min']} to {edges['max']} px (median {edges['median']})"
        + (
            f"; {images['with_rejected_image']:,} records have a rejected image"
            if images["with_rejected_image"]
            else ""
        ),
        "decoding": "; ".join(f"{count:,} {name}" for name, count in images["treated"].items()),
        "repeated": f"{duplicates['same_record']:,} whole records; {duplicates['same_image_and_prompt']:,} share image and prompt "
        f"with another; {duplicates['contradicting']:,} contradict another",
        "words": f"chosen {words['chosen']}, rejected {words['rejected']} on average ({words['ratio']:.2f} times); "
        f"chosen is longer in {100 * words['chosen_longer']:.0f} %, shorter in {100 * words['rejected_longer']:.0f} %",
        "taken from": ", ".join(f"{name} {count:,}" for name, count in list(report["sources"].items())[:_SHOWN]),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(value))
    return table


def _beginning(text: str) -> str:
    """A text on one line, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= _TEXT else f"{line[: _TEXT - 3]}..."


def _turn(turn: dict[str, Any]) -> str:
    """A turn before the prompt, on one line."""
    return f"{'[image] ' if turn['has_image'] else ''}{_beginning(turn['text'])}"


def _print_tokens(console: Console, one: dict[str, Any]) -> None:
    tokens = one["tokens"]
    grid = Grid(f"tokens of {one['model']}")
    first = next(iter(tokens["lengths"].values()))
    for heading in ("", *first):
        grid.column(heading, "right" if heading else "left")
    for name, values in tokens["lengths"].items():
        grid.row(name, *(f"{value:,}" for value in values.values()))
    print_grid(grid, console)
    bars = tokens["histogram"]
    most = max(bar["count"] for bar in bars)
    drawn = "".join(_BLOCKS[-(-bar["count"] * 8 // most)] for bar in bars)
    console.print(
        f"all with the longer answer: {bars[0]['from']:,} [bold]{drawn}[/bold] {bars[-1]['to']:,} "
        f"(limit {tokens['max_length']:,})",
        highlight=False,
    )
    for title, key in (("no room for an answer", "over_long_records"), ("answer is cut", "cut_answer_records")):
        for row in tokens[key][:_SHOWN]:
            console.print(f"  {title}: {escape(row['where'])} ({row['id']}), {row['tokens']:,} tokens", highlight=False)


def _print_overlap(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    known = [row for row in rows if not row["missing"]]
    if known:
        grid = Grid("images that evaluation sets ask about")
        for heading in ("suite", "its images", "also here", "in pairs", "by COCO number", "by content", "by look"):
            grid.column(heading, "left" if heading == "suite" else "right")
        grid.column("for example", "left", folds=True)
        for row in known:
            counts = ("images_of_the_suite", "shared", "pairs", "by_coco_number", "by_content", "by_look")
            grid.row(row["suite"], *(f"{row[key]:,}" for key in counts), ", ".join(row["examples"][:2]))
        print_grid(grid, console)
    if missing := [row["suite"] for row in rows if row["missing"]]:
        console.print(
            f"[dim]not compared, because they are not downloaded: {', '.join(missing)}[/dim]", highlight=False
        )


def _print_bad(console: Console, bad: Sequence[dict[str, str]]) -> None:
    for row in bad[:_SHOWN]:
        console.print(f"  [red]{escape(row['where'])}[/red]: {escape(row['reason'])}", soft_wrap=True, highlight=False)
    if len(bad) > _SHOWN:
        console.print(f"  ... and {len(bad) - _SHOWN:,} more; --json lists all")
