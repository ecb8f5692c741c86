"""`harness export`: checkpoints for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Json, Results, app, emit


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="An aligned run's name or folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the checkpoint goes.")],
    merge: Annotated[
        bool, typer.Option("--merge/--adapter", help="Add the adapter's weights to its base's, or keep it an adapter.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """A checkpoint as a folder of its own: merged weights in the hub's names, processor, model card and manifest."""
    from harness.runs.export import export_run
    from harness.runs.folders import find_run

    manifest = export_run(find_run(run, results), output, merge=merge, overwrite=overwrite)
    if as_json:
        emit(manifest)
    else:
        typer.echo(f"{manifest['checkpoint']['kind']} checkpoint: {output}")
        typer.echo(f"next: harness serve {output}")
