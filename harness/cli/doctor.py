"""`harness doctor`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from harness.cli.options import START, Json, Results, app, emit
from harness.core.terminal import Console

if TYPE_CHECKING:
    from harness.doctor import Line


_FINDINGS = (
    ("fail", "red", "Does not work"),
    ("missing", "red", "Missing for what you asked"),
    ("warn", "yellow", "Optional, and not here"),
    ("ok", "green", "Works"),
)
"""State of a finding, colour and heading; the most urgent first."""


@app.command(rich_help_panel=START)
def doctor(
    wanted: Annotated[
        list[str] | None,
        typer.Argument(metavar="SUITE...", help="Suites that you want to run: their data must be here."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Also serve a tiny random model; takes a minute or more.")
    ] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Check what is installed and works on this machine, with remedies.

    Exits with 1 if a check fails, or if something is missing for what you asked.
    """
    from harness.core.progress import console
    from harness.doctor import examine

    with console.status("checking"):
        lines = list(examine(results, full, wanted or ()))
    if as_json:
        emit([dataclasses.asdict(line) for line in lines])
    else:
        _print(lines)
    if any(line.state in ("fail", "missing") for line in lines):
        raise typer.Exit(1)


def _print(lines: Sequence[Line]) -> None:
    """Print the doctor's findings in groups, what needs attention last."""
    console = Console()
    for state, colour, heading in reversed(_FINDINGS):
        group = [line for line in lines if line.state == state]
        if group:
            console.print(f"[bold {colour}]{heading}[/bold {colour}]", highlight=False)
        for line in group:
            console.print(
                f"  [bold]{escape(line.name)}[/bold]: {escape(line.finding)}", soft_wrap=True, highlight=False
            )
            if line.remedy:
                console.print(f"      [dim]{escape(line.remedy)}[/dim]", soft_wrap=True, highlight=False)
