"""`harness runs`: list the runs, restore replaced ones, remove failed ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import CHECKPOINTS, Json, Results, app, emit
from harness.core.terminal import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.runs.housekeeping import RunEntry


@app.command(rich_help_panel=CHECKPOINTS)
def runs(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="With --prune: only these, including those interrupted after some steps."),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Remove runs without a finished step, and replaced runs with a complete successor. Never a complete run.",
        ),
    ] = False,
    restore: Annotated[
        str | None,
        typer.Option(
            "--restore", metavar="NAME", help="Bring back the run that --overwrite replaced, by swapping the two."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before removing.")] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """List the runs: complete, running, interrupted, failed (with the reason), replaced."""
    from harness.core.errors import BadInputError
    from harness.runs import housekeeping

    if prune and restore:
        raise BadInputError("--prune and --restore exclude each other", remedy="give only one of them")
    if names and not prune:
        raise BadInputError("names are only accepted with --prune", remedy=f"harness runs {' '.join(names)} --prune")
    if restore is not None:
        folder = housekeeping.restore(results, restore)
        emit({"restored": str(folder)}) if as_json else say(f"restored: {folder}")
        return
    entries = housekeeping.survey_all(results)
    if not prune:
        emit([one.row() for one in entries]) if as_json else _print(entries, results)
        return
    chosen = housekeeping.named(entries, names or [])
    rows = [one.row() for one in chosen]
    if chosen and not yes:
        if not as_json:
            _print(chosen, results, "these would be removed")
        if as_json or not sys.stdin.isatty():
            raise BadInputError(
                "removing needs a confirmation, and standard input is not a terminal", remedy="add --yes"
            )
        if not typer.confirm("Remove them?"):
            raise typer.Exit(1)
    freed = housekeeping.prune(results, chosen)
    if as_json:
        emit({"removed": rows, "bytes": freed})
        return
    from harness.core.memory import written_bytes

    if yes and chosen:
        _print(chosen, results, "removed")
    say(f"{len(chosen)} removed, {written_bytes(freed)}" if chosen else "nothing to remove")


def _print(entries: Sequence[RunEntry], results: Path, title: str = "") -> None:
    """Print a table of the runs, and the commands that apply."""
    from rich.text import Text

    from harness.cli.grids import print_grid
    from harness.core.grid import Grid
    from harness.core.memory import written_bytes
    from harness.core.terminal import plain

    if not entries:
        say(f"there are no runs in {results}")
        return
    grid = Grid(f"{results}: {title}" if title else str(results))
    grid.column("run", "left", folds=True)
    grid.column("state", "left")
    grid.column("finished", "left")
    grid.column("size")
    grid.column("", "left", folds=True)
    colours = {"failed": "red", "interrupted": "yellow", "replaced": "dim", "leftover": "dim", "running": "green"}
    for entry in entries:
        name = entry.path.name if entry.condition == "replaced" and "/" not in entry.name else entry.name
        cells = (
            name,
            entry.condition,
            entry.finished[:16].replace("T", " "),
            written_bytes(entry.bytes),
            entry.note[:200],
        )
        style = colours.get(entry.condition, "")
        grid.row(*(Text(plain(cell), style=style if number == 1 else "") for number, cell in enumerate(cells)))
    print_grid(grid)
    if title:
        return
    if any(entry.condition == "interrupted" for entry in entries):
        say("interrupted: run the same command with --resume --name NAME")
    if any(entry.condition == "replaced" for entry in entries):
        say("replaced: restore it with `harness runs --restore NAME`")
    if spare := [entry for entry in entries if entry.removable]:
        size = written_bytes(sum(entry.bytes for entry in spare))
        say(f"`harness runs --prune` removes {len(spare)} of these, {size}")
