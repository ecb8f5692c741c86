"""`harness doctor`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import SETUP, Json, Results, app, emit


@app.command(rich_help_panel=SETUP)
def doctor(
    full: Annotated[
        bool, typer.Option("--full", help="Also serve a tiny random model; takes a minute or more.")
    ] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Check what is installed and works on this machine, with remedies.

    Exits with 1 if a check fails.
    """
    from harness.cli.tables import print_line
    from harness.core.progress import console
    from harness.doctor import examine

    lines = []
    with console.status("checking"):
        for line in examine(results, full):
            lines.append(line)
            if not as_json:
                print_line(line)
    if as_json:
        emit([dataclasses.asdict(line) for line in lines])
    if any(line.state == "fail" for line in lines):
        raise typer.Exit(1)
