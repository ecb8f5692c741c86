"""`harness eval`, `rejudge` and `merge`: ask checkpoints the questions, score the answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import completion
from harness.cli.declared import SettingsCommand, declared_options
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

if TYPE_CHECKING:
    from benchmarks.base import Benchmark
    from harness.evaluation.pictures import Change
    from harness.evaluation.request import EvalRequest
    from harness.runs.targets import Target

Runs = Annotated[
    str | None,
    typer.Option("--run", help="Runs by name or folder, comma-separated. Default: the latest aligned run."),
]
Base = Annotated[bool, typer.Option("--base", help="Evaluate the runs' base model, too.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", help="official, pocket, pocket:SEED, pocket@validation, or a folder. Default: depends on the model."
    ),
]
Noise = Annotated[
    str | None,
    typer.Option(
        "--noise",
        metavar="CHANGES",
        help="Also ask about changed pictures, and compare: noise steps 0 to 999, blank, shuffled; comma-separated.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print items, tokens, time and the judge's cost; run nothing.", rich_help_panel=RUN_OPTIONS
    ),
]


@app.command(name="eval", cls=SettingsCommand, rich_help_panel=EVALUATE)
def evaluate(
    context: typer.Context,
    suite: Annotated[
        str,
        typer.Option(
            "--suite", help="Suites, comma-separated; see `harness list benchmarks`.", autocompletion=completion.suites
        ),
    ],
    run: Runs = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Base model to evaluate instead of a run; with --endpoint, its name there."),
    ] = None,
    base: Base = False,
    data: Data = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", help="vllm, transformers, openai, or a plugin's. Default: vllm if installed."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint", help="OpenAI-compatible endpoints of one model, comma-separated; key in OPENAI_API_KEY."
        ),
    ] = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_votes: JudgeVotes = None,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    settings: Settings = None,
    max_unscored: MaxUnscored = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", help="Use a seeded sample of about this many items per suite.", rich_help_panel=RUN_OPTIONS
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Answer only this part of the images; `harness merge` joins and scores.",
            rich_help_panel=RUN_OPTIONS,
        ),
    ] = None,
    repeat: Annotated[
        int,
        typer.Option(
            "--repeat",
            min=1,
            help="Ask every question N times and report the spread; the first time is scored.",
            rich_help_panel=RUN_OPTIONS,
        ),
    ] = 1,
    noise: Noise = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Resume; this is the default, because answers are stored.", rich_help_panel=RUN_OPTIONS
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Generate stored answers again.", rich_help_panel=RUN_OPTIONS)
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="First run a short `harness verify` once per checkpoint; stop if it fails.",
            rich_help_panel=RUN_OPTIONS,
        ),
    ] = False,
    dry_run: DryRun = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Serve checkpoints, ask a suite's questions, score the answers. Stored answers are not generated again."""
    from harness.core import registry
    from harness.core.errors import BadInputError
    from harness.evaluation.request import EvalRequest
    from harness.evaluation.shards import Shard
    from harness.serving.choose import choose_backend, endpoint_settings

    # Report every error that can be found now, before a model is loaded or an engine is started.
    suites = registry.names("benchmarks", suite)
    engine = choose_backend("openai" if endpoint and not backend else backend)
    serving = endpoint_settings(endpoint, engine)
    targets, default_data = _targets(run, model, base, results, engine.remote)
    asked = judge_settings(judge_model, judge_url, judge_votes, judge_price, max_cost)
    scoring = scoring_of(context, suites)
    layers = layers_of(settings, scoring, asked, serving)
    if shard and (scoring or judge or asked):
        raise BadInputError(
            "--shard only generates answers, so a judge or an option for scoring has no effect",
            remedy=f"give them to harness merge RUN --suite {suite}, which scores",
        )
    if resume and overwrite:
        raise BadInputError("--resume keeps stored answers, --overwrite replaces them", remedy="give only one of them")
    request = EvalRequest(
        targets,
        suites,
        data or default_data,
        engine,
        layers,
        judge,
        share_unscored(max_unscored),
        limit,
        overwrite=overwrite,
        shard=Shard.parse(shard) if shard else None,
        repeat=repeat,
        verify=verify,
        changes=_changes(noise),
    )
    _carry_out(request, dry_run, as_json)


@app.command(cls=SettingsCommand, rich_help_panel=EVALUATE)
def rejudge(
    context: typer.Context,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", help="Suites that a judge rates, comma-separated. Default: the one that a judge rates."
        ),
    ] = None,
    run: Runs = None,
    base: Base = False,
    data: Data = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_votes: JudgeVotes = None,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    settings: Settings = None,
    max_unscored: MaxUnscored = None,
    dry_run: DryRun = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Judge stored answers again, with another judge, model or prompt; nothing is generated.

    The new scores are stored under the judge's name; earlier scores are kept.
    """
    from harness.analysis.declared import rated_suite
    from harness.core import registry
    from harness.evaluation.request import EvalRequest
    from harness.evaluation.stored import recorded_backend

    suites = registry.names("benchmarks", suite or rated_suite())
    targets, default_data = _targets(run, None, base, results)
    engine, given = recorded_backend(targets, suites, data or default_data)
    asked = judge_settings(judge_model, judge_url, judge_votes, judge_price, max_cost)
    layers = layers_of(settings, scoring_of(context, suites), asked, given, answered=True)
    request = EvalRequest(
        targets, suites, data or default_data, engine, layers, judge, share_unscored(max_unscored), generate=False
    )
    _carry_out(request, dry_run, as_json)


@app.command(cls=SettingsCommand, rich_help_panel=EVALUATE)
def merge(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run's name or folder.")],
    suite: Annotated[str, typer.Option("--suite", help="Suites that were answered in shards, comma-separated.")],
    data: Data = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_votes: JudgeVotes = None,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    settings: Settings = None,
    max_unscored: MaxUnscored = None,
    noise: Noise = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Join the answers of `harness eval --shard` jobs, and score them. Refuses gaps and overlaps."""
    from harness.core import registry
    from harness.evaluation.request import EvalRequest
    from harness.evaluation.stored import run_merge, shard_backend
    from harness.runs.targets import only_target

    suites = registry.names("benchmarks", suite)
    targets, default_data = _targets(run, None, False, results)
    target = only_target(targets, f"harness merge RUN --suite {suite}")
    engine, given = shard_backend(target, suites, data or default_data)
    asked = judge_settings(judge_model, judge_url, judge_votes, judge_price, max_cost)
    layers = layers_of(settings, scoring_of(context, suites), asked, given, answered=True)
    request = EvalRequest(
        [target],
        suites,
        data or default_data,
        engine,
        layers,
        judge,
        share_unscored(max_unscored),
        generate=False,
        changes=_changes(noise),
    )
    records = run_merge(request)
    if as_json:
        emit([record.written() for record in records])
        return
    from harness.cli.score_tables import print_records

    print_records(records)


def _changes(noise: str | None) -> list[Change]:
    """The changes of pictures that --noise names.

    Raises:
        BadInputError: it names something else, or one of them twice.
    """
    from harness.evaluation.pictures import Change

    return [] if noise is None else Change.parse_list(noise)


def layers_of(
    settings: list[str] | None,
    scoring: dict[str, Any],
    judge: dict[str, Any],
    backend: dict[str, Any],
    answered: bool = False,
) -> dict[str, Any]:
    """Settings by group: those of `--set` and of the other options; if the suites are `answered`, the backend's settings are the stored
    ones.

    Raises:
        BadInputError: a setting is given twice with different values, or has no effect.
    """
    from harness.core.config import named_once, overrides
    from harness.core.errors import BadInputError

    given = overrides(settings or [])
    if answered and given.get("backend"):
        raise BadInputError("the answers are stored already, so --set backend.* has no effect", remedy="leave it out")
    return named_once(given, {**scoring, "judge": judge, "backend": backend})


def scoring_of(context: typer.Context, suites: list[str]) -> dict[str, dict[str, str]]:
    """Suite -> its settings that were given as options.

    Raises:
        BadInputError: an option that none of the suites declares.
    """
    from harness.core import registry

    kinds = {name: registry.load("benchmarks", name) for name in suites}
    return _shared_out(declared_options(context, *kinds.values()), kinds)


def _shared_out(given: dict[str, str], kinds: dict[str, type[Benchmark]]) -> dict[str, dict[str, str]]:
    """Suite -> the given options that it declares."""
    from harness.evaluation.offline import declared_names, refuse_unused

    suites = list(kinds)
    taking = {name: declared_names(kind)["setting_options"] for name, kind in kinds.items()}
    refuse_unused(", ".join(suites), set(given).difference(*taking.values()))
    found = {name: {key: given[key] for key in keys if key in given} for name, keys in taking.items()}
    return {name: values for name, values in found.items() if values}


def _targets(
    run: str | None, model: str | None, base: bool, results: Path, remote: bool = False
) -> tuple[list[Target], str]:
    """The targets to evaluate, and their default data.

    Raises:
        BadInputError: unknown name; an endpoint without a model name; --base with an endpoint.
    """
    from harness.core.errors import BadInputError
    from harness.core.progress import console
    from harness.models import resolve
    from harness.runs.folders import find_run, latest_aligned
    from harness.runs.targets import target_of_endpoint, target_of_model, targets_of_runs

    if run and model:
        raise BadInputError(
            "--run and --model exclude each other", remedy="to evaluate a run's base model with it, use --base"
        )
    if model and base:
        raise BadInputError("--base needs runs, and --model names a base model", remedy="leave out --base")
    if remote and not run:
        if not model:
            raise BadInputError(
                "the name of the endpoint's model is missing", remedy="--model NAME, as the endpoint calls it"
            )
        return [target_of_endpoint(model, results)], "official"
    if model:
        reference = resolve(model)
        return [target_of_model(reference, results)], reference.default_data
    runs = [find_run(one.strip(), results) for one in run.split(",")] if run else [latest_aligned(results)]
    if not run:
        console.print(f"using the latest aligned run: {runs[0].name}")
    return targets_of_runs(runs, results, base=base)


def _carry_out(request: EvalRequest, dry_run: bool, as_json: bool) -> None:
    """Run the evaluation and print the scores, or print the plan."""
    from harness.cli.score_tables import print_plan, print_records
    from harness.evaluation.evaluate import run_eval
    from harness.evaluation.plan import plan_eval

    if dry_run:
        plan = plan_eval(request)
        emit(plan) if as_json else print_plan(plan)
        return
    records = run_eval(request)
    emit([record.written() for record in records]) if as_json else print_records(records)
