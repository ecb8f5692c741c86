"""`harness view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import RESULTS, Results, app
from harness.core.terminal import say


@app.command(rich_help_panel=RESULTS)
def view(
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on this machine; 0 takes a free one.")
    ] = 7860,
    results: Results = Path("results"),
) -> None:
    """Serve the report of a results folder to this machine, with all samples; it is drawn again while jobs run."""
    from harness.reports.live import LiveReport, ViewServer

    with ViewServer(LiveReport(results), port) as server:
        say(f"{results} at {server.url} (only from this machine; Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")
