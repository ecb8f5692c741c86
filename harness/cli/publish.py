"""`harness publish`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import RESULTS, Json, Results, app, emit
from harness.core.terminal import say


class Relationship(StrEnum):
    """Of the evaluator to the model."""

    first_party = "first_party"
    third_party = "third_party"
    collaborative = "collaborative"
    other = "other"


@app.command(rich_help_panel=RESULTS)
def publish(
    run: Annotated[str, typer.Argument(help="A run with scores, by name or folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new folder.")],
    organisation: Annotated[str, typer.Option("--organisation", metavar="NAME", help="Who ran the evaluation.")],
    relationship: Annotated[
        Relationship | None,
        typer.Option(
            "--relationship",
            help="Of the evaluator to the model. Default: first_party for an aligned run, else third_party.",
        ),
    ] = None,
    answers: Annotated[
        bool, typer.Option("--answers", help="Include the answers, with which others can test differences.")
    ] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Write a run's results for others: a card with machine-readable scores, Every Eval Ever records, the scores."""
    from harness.publishing import Publication
    from harness.publishing import publish as write
    from harness.runs.folders import find_run

    files = write(
        Publication(find_run(run, results), output, organisation, relationship.value if relationship else None, answers)
    )
    if as_json:
        emit([str(output / file) for file in files])
        return
    for file in files:
        say(f"{output / file}")
    say(f"compare with it: harness leaderboard {output / 'results'} {results}")
