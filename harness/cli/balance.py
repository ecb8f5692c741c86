"""`harness balance`: whether an alignment moved the preference between texts, or also the one between pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import CHECKPOINTS, Columns, ImageRoot, Json, Results, app, emit


@app.command(rich_help_panel=CHECKPOINTS)
def balance(
    run: Annotated[str, typer.Argument(help="Aligned runs by name or folder, several with commas.")],
    data: Annotated[
        str, typer.Option("--data", help="Pairs that were not trained on: a file, a known name, pocket:SEED.")
    ],
    limit: Annotated[int, typer.Option("--limit", min=1, help="A seeded sample of this many pairs.")] = 200,
    corruption: Annotated[
        str,
        typer.Option(
            "--corruption",
            help="Of the rejected pictures, where the pairs bring none: whole-noise, crop, noise, blur, ...",
        ),
    ] = "whole-noise",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the rejected pictures, e.g. step=750."),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, bfloat16 or float16; auto is the model's own.")
    ] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the sample and of the rejected pictures.")] = 0,
    columns: Columns = None,
    image_root: ImageRoot = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Margins of text and image preference on held-out pairs, after each kept stage and at the end. For every method."""
    from aligners.preferences.options import DataOptions
    from aligners.rejected_images import ImagePreferenceSettings
    from harness.checkpoints.balance import BalanceRequest, measure_balance
    from harness.core.config import merged, overrides, parse
    from harness.core.errors import BadInputError
    from harness.runs.folders import find_run

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise BadInputError(f"there is no type '{dtype}'", remedy="--dtype auto, float32, bfloat16 or float16")
    layers = merged(overrides(settings or []), {"corruption": corruption})
    images = parse(ImagePreferenceSettings, layers, "the rejected images")
    options = DataOptions.parse(columns, image_root)
    runs = [find_run(name.strip(), results) for name in run.split(",")]
    found = [measure_balance(BalanceRequest(one, data, limit, images, dtype, seed, options)) for one in runs]
    if as_json:
        emit(found)
        return
    from harness.analysis.balance import balance_tables
    from harness.cli.tables import print_text_tables

    print_text_tables(balance_tables(found))
