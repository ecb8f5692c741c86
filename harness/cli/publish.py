"""`harness publish`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import RESULTS, Json, Results, app, emit
from harness.core.packages import OWN_DISTRIBUTION
from harness.core.terminal import say


class Relationship(StrEnum):
    """Of the evaluator to the model."""

    first_party = "first_party"
    third_party = "third_party"
    collaborative = "collaborative"
    other = "other"


class Tracker(StrEnum):
    """Experiment trackers."""

    wandb = "wandb"
    mlflow = "mlflow"
    trackio = "trackio"


@app.command(rich_help_panel=RESULTS)
def publish(
    run: Annotated[str, typer.Argument(help="A run with scores, by name or folder.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The new folder.")] = None,
    organisation: Annotated[
        str | None, typer.Option("--organisation", metavar="NAME", help="Who ran the evaluation; a folder needs it.")
    ] = None,
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
    tracker: Annotated[
        list[Tracker] | None,
        typer.Option("--tracker", help="Write the scores to this experiment tracker, as a run; may be repeated."),
    ] = None,
    project: Annotated[
        str, typer.Option("--project", metavar="NAME", help="The tracker's project (MLflow: experiment).")
    ] = OWN_DISTRIBUTION,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Write a run's results for others: a card with machine-readable scores, Every Eval Ever records, the scores; or a tracker's run."""
    from harness.publishing import publish_everywhere
    from harness.runs.folders import find_run

    written = publish_everywhere(
        find_run(run, results),
        output,
        organisation=organisation,
        relationship=relationship.value if relationship else None,
        answers=answers,
        trackers=[name.value for name in tracker or ()],
        project=project,
    )
    if as_json:
        emit(written)
        return
    for place in written:
        say(place)
    if output is not None:
        say(f"compare with it: harness leaderboard {output / 'results'} {results}")
