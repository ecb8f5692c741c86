"""`harness balance`: whether an alignment moved the preference between texts, or also the one between pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    else:
        _print(found)


def _print(records: list[dict[str, Any]]) -> None:
    """A row for each stage of each run."""
    from rich.markup import escape
    from rich.table import Table

    from harness.core.terminal import Console

    sizes = sorted({record["n"] for record in records})
    size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    table = Table(
        title=escape(f"Modality balance on {records[0]['data']}, n = {size}"),
        title_justify="left",
        caption_justify="left",
    )
    for place, head in enumerate(
        ("run", "after", "steps", "text margin", "text > 0", "image margin", "image > 0", "image / text")
    ):
        table.add_column(head, justify="right" if place > 1 else "left")
    for record in records:
        for one in record["measured"]:
            share = [f"{100 * one[name]['value']:.1f} %" for name in ("text_above_0", "image_above_0")]
            row = [
                record["run"],
                one["after"],
                f"{one['steps']:,}",
                _written(one["text"]),
                share[0],
                _written(one["image"]),
                share[1],
            ]
            table.add_row(*map(escape, row), _written(one["ratio"]) if one["ratio"] else "–")
    table.caption = "margins: mean reward differences on held-out pairs, with 95 % intervals; – unless both margins are surely above 0"
    Console().print(table)


def _written(found: dict[str, Any]) -> str:
    text = f"{found['value']:.3f}"
    return text + (f" ({found['ci'][0]:.3f} to {found['ci'][1]:.3f})" if found["ci"] else "")
