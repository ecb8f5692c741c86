"""The Typer app and what several commands share: options, JSON to standard output."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.core.terminal import json_text, say

app = typer.Typer(
    name="harness",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Align vision-language models with preference methods and measure how much they still hallucinate. Any command takes --debug.",
)

Results = Annotated[Path, typer.Option("--results", help="Folder of the runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting, e.g. train.learning_rate=1e-5, method.beta=0.2. Repeatable."
    ),
]

Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="NAME=COLUMN,...",
        help="Preference data's columns where they have other names than its format's, e.g. prompt=query,image=picture.",
    ),
]
ImageRoot = Annotated[
    Path | None,
    typer.Option(
        "--image-root",
        metavar="DIR",
        help="A folder that image paths are relative to, or lie in, besides the preference data's own.",
    ),
]


def emit(value: Any) -> None:
    """JSON to standard output."""
    say(json_text(value, indent=1))


JudgeName = Annotated[
    str | None,
    typer.Option("--judge", help="For what needs one; see `harness list judges`. Default: the world's, else openai."),
]
JudgeModel = Annotated[str | None, typer.Option("--judge-model", help="Model that judges. Default: gpt-4o.")]
JudgeUrl = Annotated[
    str | None, typer.Option("--judge-url", help="OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1.")
]
JudgeVotes = Annotated[int | None, typer.Option("--judge-votes", min=1, help="Judge every answer so often.")]
JudgePrice = Annotated[
    str | None,
    typer.Option("--judge-price", metavar="IN,OUT", help="US dollars for a million prompt and completion tokens."),
]
MaxCost = Annotated[
    float | None, typer.Option("--max-cost", min=0, help="Stop judging before it costs more US dollars.")
]
MaxUnscored = Annotated[
    float | None,
    typer.Option("--max-unscored", min=0, max=1, help="Share of items that may have no verdict. Default: 0.01."),
]


def judge_settings(
    model: str | None, url: str | None, votes: int | None, price: str | None, max_cost: float | None
) -> dict[str, Any]:
    """The judge's settings that were named.

    Raises:
        BadInputError: the price is none.
    """
    from harness.judging.prices import parse_price

    named: dict[str, Any] = {"model": model, "base_url": url, "votes": votes, "max_cost": max_cost}
    named["price"] = parse_price(price) if price is not None else None
    return {name: value for name, value in named.items() if value is not None}


def share_unscored(given: float | None) -> float:
    """The share of items that may have no verdict, as `--max-unscored` gives it, or the default.

    Raises:
        BadInputError: it is no number: nothing is greater than that, so any share would pass.
    """
    from harness.core.errors import BadInputError

    if given is None:
        return 0.01
    if math.isnan(given):
        raise BadInputError("--max-unscored is a share between 0 and 1, not nan")
    return given
