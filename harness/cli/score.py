"""`harness score` and `calibrate`: score answers and ratings from any source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import completion
from harness.cli.declared import FilesCommand, declared_options
from harness.cli.options import (
    EVALUATE,
    Json,
    JudgeModel,
    JudgeName,
    JudgePrice,
    JudgeUrl,
    JudgeVotes,
    MaxCost,
    MaxUnscored,
    Settings,
    app,
    emit,
    judge_settings,
    share_unscored,
)

if TYPE_CHECKING:
    from harness.judging.base import Judge


@app.command(cls=FilesCommand, rich_help_panel=EVALUATE)
def score(
    context: typer.Context,
    suite: Annotated[
        str, typer.Option("--suite", help="A suite, see `harness list benchmarks`.", autocompletion=completion.suites)
    ],
    items_file: Annotated[
        Path | None, typer.Option("--items", help="Write one JSON line per item: mentions, verdicts, counts.")
    ] = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score only the items that have responses.")
    ] = False,
    settings: Settings = None,
    max_unscored: MaxUnscored = None,
    as_json: Json = False,
) -> None:
    """Score responses from any source."""
    from harness.core import registry
    from harness.core.config import named_once
    from harness.core.contract import check_items
    from harness.evaluation.offline import offered_to, refuse_unused, score_offline
    from harness.evaluation.score import make_judge

    named = _judge_group(settings)
    kind = registry.load("benchmarks", suite)
    benchmark, offered = offered_to(kind, declared_options(context, kind))
    items, answers = benchmark.read_offline(offered)
    check_items(benchmark, "read_offline", items, asked=False)
    refuse_unused(suite, offered.unused)
    named = named_once(named, judge_settings(judge_model, judge_url, None, judge_price, max_cost))

    def judge_of() -> Judge:
        return make_judge(judge or "openai", named)

    asked = {"judge": judge, "judge_model": judge_model, "judge_url": judge_url, "judge_price": judge_price}
    wanted = {name for name, value in (asked | {"max_cost": max_cost, "set": settings}).items() if value is not None}
    record = score_offline(
        benchmark,
        items,
        answers,
        judge_of=judge_of,
        judge_options=wanted,
        allow_partial=allow_partial,
        max_unscored=share_unscored(max_unscored),
        items_file=items_file,
    )
    if as_json:
        emit(record.written())
        return
    from harness.cli.score_tables import print_record

    print_record(record, every=True)


@app.command(rich_help_panel=EVALUATE)
def calibrate(
    reference: Annotated[
        Path,
        typer.Option(
            "--reference", help="Rated answers: an item file of evals/SUITE@DATA/, or JSON lines {prompt, rating}."
        ),
    ],
    suite: Annotated[
        str | None,
        typer.Option("--suite", help="The suite of the ratings. Default: the one that a judge rates."),
    ] = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_votes: JudgeVotes = None,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Measure a judge's agreement with reference ratings (of people or another judge) and with itself, in two votes per answer."""
    from harness.analysis.declared import rated_suite
    from harness.core import registry
    from harness.core.config import named_once
    from harness.core.errors import BadInputError
    from harness.evaluation.score import make_judge
    from harness.judging.calibration import calibrate as compare

    benchmark = registry.load("benchmarks", suite or rated_suite())()
    asked = judge_settings(judge_model, judge_url, judge_votes, judge_price, max_cost)
    named, name = named_once(_judge_group(settings), asked), judge or "openai"
    if "votes" in registry.load("judges", name).Settings.model_fields:  # pocket-truth has none
        named = {"votes": 2} | named
    if benchmark.hallucinated_below is None:
        raise BadInputError(
            f"the suite '{benchmark.name}' does not use a judge",
            remedy="choose a suite that a judge rates",
        )
    agreement = compare(make_judge(name, named), reference, benchmark.read_reply, benchmark.hallucinated_below)
    if as_json:
        emit(agreement)
        return
    from harness.cli.score_tables import print_calibration

    print_calibration(agreement)


def _judge_group(settings: list[str] | None) -> dict[str, Any]:
    """The judge's settings from `--set`.

    Raises:
        BadInputError: a setting of another group.
    """
    from harness.core.config import overrides
    from harness.core.errors import BadInputError

    groups = overrides(settings or [])
    others, named = sorted(set(groups) - {"judge"}), groups.get("judge", {})
    if others or not isinstance(named, dict):
        raise BadInputError(
            f"this command accepts only the judge's settings, not --set {(others or ['judge'])[0]}...",
            remedy="--set judge.KEY=VALUE",
        )
    return dict(named)
