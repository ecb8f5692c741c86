"""`harness align`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from harness.cli import completion
from harness.cli.options import (
    ALIGN,
    DATA_OPTIONS,
    RUN_OPTIONS,
    Columns,
    ImageRoot,
    Json,
    Results,
    Settings,
    app,
    emit,
)
from harness.core.terminal import say


class OnError(StrEnum):
    """What to do with an invalid record."""

    fail = "fail"
    skip = "skip"


@app.command(rich_help_panel=ALIGN)
def align(
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="A method, see `harness list methods`. Default: that of the run that --recipe names.",
            autocompletion=completion.methods,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Alias, hub id or folder; see `harness list models`. Default: that of the run that --recipe names.",
            autocompletion=completion.models,
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--start",
            metavar="FOLDER",
            help="Start from an earlier run of the same model, exported with `harness export RUN -o FOLDER`, which is also the reference.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Preference data: rlaif-v, rlhf-v, a data set of the hub (NAMESPACE/NAME@REVISION), a file (Parquet, JSON, CSV, "
            "WebDataset) or a folder. FORMAT:FILE if the columns do not tell the format. Default: that of the method or model.",
            rich_help_panel=DATA_OPTIONS,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the run. Default: METHOD-MODEL-TIME.", rich_help_panel=RUN_OPTIONS),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            autocompletion=completion.recipes,
            metavar="NAME|FILE|RUN",
            help="Settings: a YAML file (keys train and method), or a shipped recipe, see `harness list recipes`; or the folder or "
            "config.json of a run, with its method, model and data, too, where none are given.",
        ),
    ] = None,
    settings: Settings = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed for order and sampling.")] = None,
    full: Annotated[
        bool | None,
        typer.Option("--full/--lora", help="Train all weights except the vision tower's, or low-rank adapters."),
    ] = None,
    qlora: Annotated[
        bool, typer.Option("--qlora", help="Train low-rank adapters on a base in 4 bits; see docs/training.md.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="Use a seeded sample of this many pairs.", rich_help_panel=DATA_OPTIONS),
    ] = None,
    on_error: Annotated[
        OnError | None,
        typer.Option(
            "--on-error",
            help="On an invalid record: stop (fail, the default), or skip and list it.",
            rich_help_panel=DATA_OPTIONS,
        ),
    ] = None,
    allow_download: Annotated[
        bool,
        typer.Option(
            "--allow-download", help="Download images that the data give by URL.", rich_help_panel=DATA_OPTIONS
        ),
    ] = False,
    columns: Columns = None,
    image_root: ImageRoot = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume an interrupted run: that of --name, or the newest with the same method, model, data and settings.",
            rich_help_panel=RUN_OPTIONS,
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run.", rich_help_panel=RUN_OPTIONS)
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print steps, tokens, memory, disk and time; train nothing.", rich_help_panel=RUN_OPTIONS
        ),
    ] = False,
    canary: Annotated[
        bool,
        typer.Option(
            "--canary/--no-canary",
            help="Before training, compare the trainer with the model's own forward pass on a few examples (a few seconds).",
            rich_help_panel=RUN_OPTIONS,
        ),
    ] = True,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Align a model with a preference method, and write a checkpoint to a run folder."""
    from aligners.base import layered
    from aligners.preferences.options import DataOptions
    from harness.alignment.align import AlignRequest, is_first_process, plan_align, run_align
    from harness.alignment.recipes import Alignment, completed, settings_of
    from harness.core import registry
    from harness.core.config import named_once, overrides
    from harness.core.errors import BadInputError
    from harness.runs.folders import STAGES, list_runs

    named: dict[str, Any] = {}
    if seed is not None:
        named["seed"] = seed
    if (tuning := _tuning(full, qlora)) is not None:
        named["tuning"] = tuning
    options = DataOptions.parse(columns, image_root) if columns is not None or image_root is not None else None
    wrong: Literal["fail", "skip"] | None = on_error.value if on_error else None
    asked = completed(Alignment(method, model, data, limit, wrong, options, start is not None), recipe)
    for option, value in (("--method", asked.method), ("--model", asked.model)):
        if value is None:
            raise BadInputError(f"Missing option '{option}'.", remedy="see `harness align --help`")
    method = registry.adopt("aligners", str(asked.method))
    layers = named_once(overrides(settings or []), {"train": named})
    if recipe:
        layers = layered(registry.load("aligners", method).Settings, settings_of(recipe, method), layers)
    _only(layers, ("train", "method"))
    request = AlignRequest(
        method,
        str(asked.model),
        results,
        asked.data,
        name,
        layers,
        asked.limit,
        asked.on_error or "fail",
        resume,
        overwrite,
        allow_download,
        asked.options or DataOptions(),
        canary,
        start,
    )
    if dry_run:
        training_plan = plan_align(request)
        if as_json:
            emit(training_plan)
        else:
            from harness.cli.align_plan import print_align_plan

            print_align_plan(training_plan)
        return
    run = run_align(request)
    if not is_first_process():
        return
    if as_json:
        emit(run.manifest.written() if run.manifest else None)
    else:
        say(f"checkpoint: {run.checkpoint}")
        if stages := list_runs(run.path / STAGES):
            say(f"checkpoints of the stages, in {run.path / STAGES}: {', '.join(stage.path.name for stage in stages)}")
        say(f"next: harness eval --run {run.name} --suite SUITE,...  (`harness list benchmarks`)")


def _tuning(full: bool | None, qlora: bool) -> str | None:
    """What is trained, by the flags; None if none was given."""
    from harness.core.errors import BadInputError

    if qlora and full is not None:
        raise BadInputError(
            f"--qlora and {'--full' if full else '--lora'} exclude each other",
            remedy="give only one of --lora, --qlora, --full",
        )
    if qlora:
        return "qlora"
    return None if full is None else "full" if full else "lora"


def _only(settings: dict[str, Any], known: tuple[str, ...]) -> None:
    from harness.core.errors import BadInputError

    if unknown := set(settings) - set(known):
        raise BadInputError(f"--set {sorted(unknown)[0]}...: the key must begin with {' or '.join(known)}")
