"""`harness export` and `verify`: checkpoints for others, and whether they are served as they were trained."""

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


@app.command()
def verify(
    checkpoint: Annotated[
        str, typer.Argument(help="A run's name or folder, a checkpoint or exported folder, or a model.")
    ],
    probes: Annotated[int, typer.Option("--probes", min=1, help="Pictures with a question each.")] = 8,
    backend: Annotated[
        str | None, typer.Option("--backend", help="What serves it. Default: vllm where installed.")
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, bfloat16 or float16, on both sides; auto is the backend's own.")
    ] = "auto",
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Is a checkpoint served as it was trained? The same tokens and log-probabilities as in transformers; exit code 1 if not."""
    from harness.config import parse
    from harness.runs.ask import find_asked
    from harness.runs.verify import verify as compare
    from harness.serving.choose import choose_backend

    engine = choose_backend(backend)
    settings = parse(engine.Settings, {"dtype": dtype}, f"backend {engine.name}")
    [found] = compare([find_asked(checkpoint, results)], engine, probes=probes, settings=settings)
    if as_json:
        emit(found)
    else:
        from harness.cli.tables import print_verified

        print_verified(found)
    if not found["same"]:
        raise typer.Exit(1)
