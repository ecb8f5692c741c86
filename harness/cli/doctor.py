"""`harness doctor`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import SETUP, Json, Results, app, emit


@app.command(rich_help_panel=SETUP)
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
    from harness.cli.tables import print_findings
    from harness.core.progress import console
    from harness.doctor import examine

    with console.status("checking"):
        lines = list(examine(results, full, wanted or ()))
    if as_json:
        emit([dataclasses.asdict(line) for line in lines])
    else:
        print_findings(lines)
    if any(line.state in ("fail", "missing") for line in lines):
        raise typer.Exit(1)
