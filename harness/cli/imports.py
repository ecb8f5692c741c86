"""`harness import-results`: other tools' answers become a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import completion
from harness.cli.declared import SettingsCommand
from harness.cli.evaluate import layers_of, scoring_of
from harness.cli.options import (
    EVALUATE,
    RUN_OPTIONS,
    Json,
    JudgeModel,
    JudgeName,
    JudgePrice,
    JudgeUrl,
    JudgeVotes,
    MaxCost,
    MaxUnscored,
    Results,
    Settings,
    app,
    emit,
    judge_settings,
    share_unscored,
)


@app.command(name="import-results", cls=SettingsCommand, rich_help_panel=EVALUATE)
def import_results(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files with answers of one model to one suite.")
    ],
    suite: Annotated[
        str, typer.Option("--suite", help="The suite, see `harness list benchmarks`.", autocompletion=completion.suites)
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="The run's name. Default: the first file's, without its ending.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Its base model, beside whose runs leaderboards show it. Default: the run's name."
        ),
    ] = None,
    data: Annotated[
        str, typer.Option("--data", help="The suite's data, as for `harness eval`: official, pocket, or a folder.")
    ] = "official",
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_votes: JudgeVotes = None,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    settings: Settings = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Import although items have no answer; they are not scored.")
    ] = False,
    max_unscored: MaxUnscored = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace other answers of this run to the suite.", rich_help_panel=RUN_OPTIONS
        ),
    ] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Make a run of answers that another tool made, and score them: lmms-eval, VLMEvalKit, LLaVA, official files."""
    from harness.core import registry
    from harness.core.errors import BadInputError
    from harness.evaluation.imports import Import, import_results

    suites = registry.names("benchmarks", suite)
    if len(suites) != 1:
        raise BadInputError("answers are imported for one suite at a time", remedy="one command for each suite")
    asked = judge_settings(judge_model, judge_url, judge_votes, judge_price, max_cost)
    record = import_results(
        Import(
            files,
            suites[0],
            results,
            name,
            model,
            data,
            layers_of(settings, scoring_of(context, suites), asked, {}, answered=True),
            judge,
            share_unscored(max_unscored),
            allow_partial=allow_partial,
            overwrite=overwrite,
        )
    )
    if as_json:
        emit(record.written())
        return
    from harness.cli.score_tables import print_records

    print_records([record])
