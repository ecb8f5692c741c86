"""`harness export`, `push` and `verify`: package a checkpoint, upload it, and compare serving with training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from harness.cli.options import CHECKPOINTS, Json, Results, app, emit
from harness.core.terminal import Console, say


@app.command(rich_help_panel=CHECKPOINTS)
def export(
    run: Annotated[str, typer.Argument(help="An aligned run's name or folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    merge: Annotated[
        bool, typer.Option("--merge/--adapter", help="Merge the adapter into its base, or keep it an adapter.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing folder.")] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Write a checkpoint for others: merged weights with the hub's names, processor, model card, manifest."""
    from harness.checkpoints.export import export_run
    from harness.runs.folders import find_run

    manifest = export_run(find_run(run, results), output, merge=merge, overwrite=overwrite)
    if as_json:
        emit(manifest.written())
    else:
        say(f"{manifest.checkpoint.kind if manifest.checkpoint else ''} checkpoint: {output}")
        say(f"next: harness serve {output}")


@app.command(rich_help_panel=CHECKPOINTS)
def push(
    checkpoint: Annotated[str, typer.Argument(help="An aligned run's name or folder, or a checkpoint's folder.")],
    repository: Annotated[str, typer.Argument(help="NAMESPACE/NAME on the hub.")],
    private: Annotated[bool, typer.Option("--private/--public", help="Visibility of a new repository.")] = True,
    revision: Annotated[str, typer.Option("--revision", help="Branch; created if missing.")] = "main",
    message: Annotated[str | None, typer.Option("--message", "-m", help="Commit message.")] = None,
    dataset: Annotated[
        bool,
        typer.Option("--dataset", help="Upload a set of generated pairs, with a data card, in place of a checkpoint."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files and their sizes; upload nothing.")] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Upload a checkpoint to the hub, with model card and manifest; or with --dataset a set of generated pairs.

    The token is read from HF_TOKEN, or from `hf auth login`.
    """
    from harness.checkpoints.push import PushRequest
    from harness.checkpoints.push import push as upload
    from harness.generation.push import push_pairs

    request = PushRequest(checkpoint, repository, results, private, revision, message)
    record = push_pairs(request, dry_run=dry_run) if dataset else upload(request, dry_run=dry_run)
    if as_json:
        emit(record)
    else:
        _print_push(record)


def _print_push(record: dict[str, Any]) -> None:
    """Print the files as a table, the notes, and the address."""
    from harness.cli.grids import print_grid
    from harness.core.grid import Grid
    from harness.core.memory import written_bytes

    done, console = record["commit"] is not None, Console()
    seen = "private" if record["private"] else "public"
    what = f"{record['pairs']:,} pairs" if record["kind"] == "dataset" else f"{record['kind']} checkpoint"
    grid = Grid(f"{what} {'on' if done else 'for'} {record['repository']}")
    grid.column("file", "left")
    grid.column("size")
    for file in record["files"]:
        grid.row(file["name"], written_bytes(file["bytes"]))
    grid.section()
    grid.row(f"{len(record['files'])} files", written_bytes(record["bytes"]))
    print_grid(grid, console)
    for note in record["notes"]:
        console.print(f"[yellow]{escape(note)}[/yellow]", soft_wrap=True, highlight=False)
    if done:
        said = f"{record['url']} ({seen}), branch {record['revision']}, commit {record['commit']}"
    else:
        said = f"would be uploaded to {record['url']} ({seen} if it is new), branch {record['revision']}"
    console.print(said, soft_wrap=True, highlight=False, markup=False)


@app.command(rich_help_panel=CHECKPOINTS)
def verify(
    checkpoint: Annotated[str, typer.Argument(help="A run, a checkpoint folder, an exported folder, or a model.")],
    probes: Annotated[int, typer.Option("--probes", min=1, help="Number of probe images.")] = 8,
    backend: Annotated[
        str | None, typer.Option("--backend", help="Backend to compare. Default: vllm if installed.")
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, bfloat16 or float16, on both sides; auto is the backend's default.")
    ] = "auto",
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Check that a checkpoint is served as it was trained: compare tokens and log-probabilities with transformers.

    What a run passed with two probes or more is recorded in its folder (`verified.json`). Exits with 1 if they differ.
    """
    from harness.checkpoints.ask import find_asked
    from harness.checkpoints.verify import PROBES, keep_verified
    from harness.checkpoints.verify import verify as compare
    from harness.core.config import parse
    from harness.runs.targets import target_of
    from harness.serving.choose import choose_backend

    engine = choose_backend(backend)
    settings = parse(engine.Settings, {"dtype": dtype}, f"backend {engine.name}")
    asked = find_asked(checkpoint, results, other_base=True)
    target = target_of(asked.run) if asked.run is not None else None
    [verification] = compare([asked], engine, probes=probes, settings=settings)
    if target is not None and verification.same and probes >= PROBES:
        try:
            keep_verified(target, verification, engine, settings)
        except OSError as error:  # somebody else's run, in a folder that can only be read
            say(f"the verification is not recorded: {error}", err=True)
    if as_json:
        emit(verification.written())
    else:
        from harness.cli.tables import print_verified

        print_verified(verification)
    if not verification.same:
        raise typer.Exit(1)
