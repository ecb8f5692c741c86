"""`harness publish`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import RESULTS, Json, Results, app, emit
from harness.core.errors import BadInputError
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
    from harness.publishing import Publication
    from harness.publishing import publish as write
    from harness.publishing.trackers import track
    from harness.runs.folders import find_run

    if output is None and not tracker:
        raise BadInputError("nothing to write to is named", remedy="a folder: -o FOLDER; a tracker: --tracker mlflow")
    if output is not None and organisation is None:
        raise BadInputError("a folder for others names who ran the evaluation", remedy="--organisation NAME")
    published = find_run(run, results)
    written: list[str] = []
    if output is not None and organisation is not None:
        asked = Publication(published, output, organisation, relationship.value if relationship else None, answers)
        written += [str(output / file) for file in write(asked)]
    written += [f"{name.value}: {track(published, name.value, project)}" for name in tracker or ()]
    if as_json:
        emit(written)
        return
    for place in written:
        say(place)
    if output is not None:
        say(f"compare with it: harness leaderboard {output / 'results'} {results}")
