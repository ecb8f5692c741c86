"""`harness align`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.options import Columns, ImageRoot, Json, Results, Settings, app, emit
from harness.core.terminal import say


class OnError(StrEnum):
    """What to do with a bad record."""

    fail = "fail"
    skip = "skip"


@app.command()
def align(
    method: Annotated[
        str,
        typer.Option("--method", help="A method, see `harness list methods`."),
    ],
    model: Annotated[str, typer.Option("--model", help="Alias, hub id or folder; see `harness list models`.")],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Preference data: rlaif-v, rlhf-v, a Parquet, JSON-lines or JSON file, a folder; FORMAT:FILE where the form is not "
            "told by the columns. Default: what suits the model.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run. Default: METHOD-MODEL-TIME.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="YAML file with the keys train and method.")] = None,
    settings: Settings = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of order and sampling.")] = None,
    full: Annotated[
        bool | None, typer.Option("--full/--lora", help="Train all weights but the vision tower, or low-rank adapters.")
    ] = None,
    qlora: Annotated[
        bool, typer.Option("--qlora", help="Low-rank adapters on a base held in 4 bits; see docs/training.md.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", help="Use a seeded sample of this many pairs.")] = None,
    on_error: Annotated[
        OnError, typer.Option("--on-error", help="A bad record stops, or is left out and listed.")
    ] = OnError.fail,
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="Fetch images that the data give by URL, once.")
    ] = False,
    columns: Columns = None,
    image_root: ImageRoot = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do an existing run again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained, and what it would take; train nothing.")
    ] = False,
    canary: Annotated[
        bool,
        typer.Option(
            "--canary/--no-canary",
            help="Before training, hold the trainer to the model's own forward pass on a few examples (a few seconds).",
        ),
    ] = True,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Align a model with a preference method; leaves a checkpoint in a run folder."""
    from aligners.preferences.options import DataOptions
    from harness.alignment.align import AlignRequest, is_first_process, plan_align, run_align
    from harness.core.config import merged, named_once, overrides, read_recipe
    from harness.runs.folders import STAGES, list_runs

    named: dict[str, Any] = {}
    if seed is not None:
        named["seed"] = seed
    if (tuning := _tuning(full, qlora)) is not None:
        named["tuning"] = tuning
    layers = merged(read_recipe(recipe) if recipe else {}, named_once(overrides(settings or []), {"train": named}))
    _only(layers, ("train", "method"))
    request = AlignRequest(
        method,
        model,
        results,
        data,
        name,
        layers,
        limit,
        on_error.value,
        resume,
        overwrite,
        allow_download,
        DataOptions.parse(columns, image_root),
        canary,
    )
    if dry_run:
        found = plan_align(request)
        if as_json:
            emit(found)
        else:
            from harness.cli.align_plan import print_align_plan

            print_align_plan(found)
        return
    run = run_align(request)
    if not is_first_process():
        return
    if as_json:
        emit(run.manifest)
    else:
        say(f"checkpoint: {run.checkpoint}")
        if stages := list_runs(run.path / STAGES):
            say(f"of its stages: {run.path / STAGES}: {', '.join(stage.path.name for stage in stages)}")
        say(f"next: harness eval --run {run.name} --suite SUITE,...  (`harness list benchmarks`)")


def _tuning(full: bool | None, qlora: bool) -> str | None:
    """What is trained, by the flags; None where none was given."""
    from harness.core.errors import BadInputError

    if qlora and full is not None:
        raise BadInputError(
            f"--qlora and {'--full' if full else '--lora'} exclude each other",
            remedy="name one of --lora, --qlora, --full",
        )
    if qlora:
        return "qlora"
    return None if full is None else "full" if full else "lora"


def _only(settings: dict[str, Any], known: tuple[str, ...]) -> None:
    from harness.core.errors import BadInputError

    if unknown := set(settings) - set(known):
        raise BadInputError(f"--set {sorted(unknown)[0]}...: settings begin with {' or '.join(known)}")
