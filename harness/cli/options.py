"""The Typer app, the options that several commands share, and JSON output."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.core.terminal import json_text, say

START, ALIGN, EVALUATE, RESULTS = "Start here", "Align", "Evaluate", "Results"
CHECKPOINTS, DATA, EXTEND = "Checkpoints", "Data", "Extend"
"""Groups of commands in `harness --help`."""
_ORDER = (START, ALIGN, EVALUATE, RESULTS, CHECKPOINTS, DATA, EXTEND)

DATA_OPTIONS, JUDGE_OPTIONS, RUN_OPTIONS, OUTPUT_OPTIONS = "Data", "Judge", "Run", "Output"
"""Groups of options in the help of commands that have many."""


class GroupedCommands(TyperGroup):
    """Lists the commands group by group, in the order of a user's work, and not in the order of the imports."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Command names, those of one group next to each other."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(getattr(self.commands[name], "rich_help_panel", EXTEND)))


app = typer.Typer(
    name="harness",
    cls=GroupedCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Align vision-language models with preference methods, and measure how much they hallucinate. Every command accepts --debug.",
)

Results = Annotated[Path, typer.Option("--results", help="Folder that contains the runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. train.learning_rate=1e-5. Repeatable."),
]

Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="NAME=COLUMN,...",
        help="Map columns with other names to those of the format, e.g. prompt=query,image=picture, or a YAML file of NAME: COLUMN.",
        rich_help_panel=DATA_OPTIONS,
    ),
]
ImageRoot = Annotated[
    Path | None,
    typer.Option(
        "--image-root",
        metavar="DIR",
        help="Folder with the images, if it is not the data's own.",
        rich_help_panel=DATA_OPTIONS,
    ),
]


def emit(value: Any) -> None:
    """JSON to standard output."""
    say(json_text(value, indent=1))


JudgeName = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="Judge, see `harness list judges`. Default: the embedded world's, or else openai.",
        rich_help_panel=JUDGE_OPTIONS,
    ),
]
JudgeModel = Annotated[
    str | None,
    typer.Option("--judge-model", help="Model of the judge. Default: gpt-4o.", rich_help_panel=JUDGE_OPTIONS),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option("--judge-url", help="Endpoint, e.g. http://127.0.0.1:8000/v1.", rich_help_panel=JUDGE_OPTIONS),
]
JudgeVotes = Annotated[
    int | None, typer.Option("--judge-votes", min=1, help="Votes per answer.", rich_help_panel=JUDGE_OPTIONS)
]
JudgePrice = Annotated[
    str | None,
    typer.Option(
        "--judge-price",
        metavar="IN,OUT",
        help="US dollars per million prompt and completion tokens.",
        rich_help_panel=JUDGE_OPTIONS,
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", min=0, help="Stop before judging costs more US dollars.", rich_help_panel=JUDGE_OPTIONS),
]
MaxUnscored = Annotated[
    float | None,
    typer.Option(
        "--max-unscored",
        min=0,
        max=1,
        help="Fraction of items that may lack a verdict. Default: 0.01.",
        rich_help_panel=JUDGE_OPTIONS,
    ),
]


def judge_settings(
    model: str | None, url: str | None, votes: int | None, price: str | None, max_cost: float | None
) -> dict[str, Any]:
    """The judge's settings that were given as options.

    Raises:
        BadInputError: the price is invalid.
    """
    from harness.judging.prices import parse_price

    named: dict[str, Any] = {"model": model, "base_url": url, "votes": votes, "max_cost": max_cost}
    named["price"] = parse_price(price) if price is not None else None
    return {name: value for name, value in named.items() if value is not None}


def share_unscored(given: float | None) -> float:
    """The fraction of items that may lack a verdict: `--max-unscored`, or 0.01.

    Raises:
        BadInputError: it is NaN, with which every fraction would be accepted.
    """
    from harness.core.errors import BadInputError

    if given is None:
        return 0.01
    if math.isnan(given):
        raise BadInputError("--max-unscored is a number from 0 to 1, not nan")
    return given
