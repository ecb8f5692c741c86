"""`harness balance`: whether an alignment moved the preference between texts, or also the one between pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import EVALUATE, Columns, ImageRoot, Json, Results, app, emit


@app.command(rich_help_panel=EVALUATE)
def balance(
    run: Annotated[str, typer.Argument(help="Aligned runs by name or folder, comma-separated.")],
    data: Annotated[str, typer.Option("--data", help="Held-out pairs: a file, a known name, or pocket:SEED.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="Use a seeded sample of this many pairs.")] = 200,
    corruption: Annotated[
        str | None,
        typer.Option(
            "--corruption",
            help="Corruption that makes rejected images, if the pairs have none: whole-noise (default), crop, noise, blur, ...",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the rejected images, e.g. step=750."),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, bfloat16 or float16; auto: that of the model.")
    ] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sample and of the rejected images.")] = 0,
    columns: Columns = None,
    image_root: ImageRoot = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Measure the margins of text and image preference on held-out pairs, after each kept stage and at the end."""
    from aligners.preferences.options import DataOptions
    from aligners.rejected_images import ImagePreferenceSettings
    from harness.checkpoints.balance import BalanceRequest, measure_balance
    from harness.core.config import merged, named_once, overrides, parse
    from harness.core.errors import BadInputError
    from harness.runs.folders import find_run

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise BadInputError(f"unknown data type '{dtype}'", remedy="use --dtype auto, float32, bfloat16 or float16")
    given = named_once(overrides(settings or []), {} if corruption is None else {"corruption": corruption})
    images = parse(ImagePreferenceSettings, merged({"corruption": "whole-noise"}, given), "the rejected images")
    options = DataOptions.parse(columns, image_root)
    runs = [find_run(name.strip(), results) for name in run.split(",")]
    records = [measure_balance(BalanceRequest(aligned, data, limit, images, dtype, seed, options)) for aligned in runs]
    if as_json:
        emit([record.written() for record in records])
        return
    from harness.analysis.balance import balance_tables
    from harness.cli.tables import print_text_tables

    print_text_tables(balance_tables(records))
