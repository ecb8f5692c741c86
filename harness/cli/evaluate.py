"""`harness eval` and `rejudge`: checkpoints are asked, answers are scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.declared import SettingsCommand, declared_names, declared_options
from harness.cli.options import (
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
    from harness.evaluation.evaluate import EvalRequest
    from harness.runs.targets import Target
    from harness.serving.base import Backend

Runs = Annotated[
    str | None,
    typer.Option("--run", help="Runs by name or folder, several with commas. Default: the latest aligned run."),
]
Base = Annotated[bool, typer.Option("--base", help="Take the runs' base model too.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", help="official, pocket[:SEED][@validation|@test], or a folder. Default: what suits the model."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be asked and what judging would cost; do nothing.")
]


@app.command(name="eval", cls=SettingsCommand)
def evaluate(
    context: typer.Context,
    suite: Annotated[str, typer.Option("--suite", help="Suites, several with commas; see `harness list benchmarks`.")],
    run: Runs = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A base model instead of a run; with --endpoint, its name there.")
    ] = None,
    base: Base = False,
    data: Data = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", help="vllm, transformers, openai or a plugin's. Default: vllm where installed."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint", help="OpenAI-compatible endpoints of one model, with commas; the key in OPENAI_API_KEY."
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
        int | None, typer.Option("--limit", help="Ask only a seeded sample of about this many items a suite.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="Answer only this part of the images; `harness merge` joins and scores."
        ),
    ] = None,
    repeat: Annotated[
        int,
        typer.Option("--repeat", min=1, help="Ask everything so often and report the spread; the first is the score."),
    ] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where it was stopped, which it does anyway: answers are kept.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Generate again what was answered before.")] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="First, once a checkpoint: `harness verify` in short; stops where it is not served as trained.",
        ),
    ] = False,
    dry_run: DryRun = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Serve checkpoints, ask them a suite's questions, score the answers. Answers that are there already are not asked again."""
    from harness.core import registry
    from harness.core.errors import BadInputError
    from harness.evaluation.evaluate import EvalRequest
    from harness.evaluation.shards import Shard
    from harness.serving.choose import choose_backend

    # Everything that can be said at once is said before a model is made or an engine started.
    suites, engine = (
        registry.names("benchmarks", suite),
        choose_backend("openai" if endpoint and not backend else backend),
    )
    serving = _endpoints(endpoint, engine)
    targets, default_data = _targets(run, model, base, results, engine.remote)
    asked = judge_settings(judge_model, judge_url, judge_votes, judge_price, max_cost)
    scoring = _scoring(context, suites)
    layers = _layers(settings, scoring, asked, serving)
    if shard and (scoring or judge or asked or max_unscored is not None):
        raise BadInputError(
            "a shard is answered and not scored: a judge, --max-unscored and options of the scoring decide nothing here",
            remedy=f"give them to the scoring: harness merge RUN --suite {suite}",
        )
    if resume and overwrite:
        raise BadInputError(
            "--resume keeps the answers that are there, --overwrite does not", remedy="give one of them"
        )
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
    )
    _carry_out(request, dry_run, as_json)


@app.command(cls=SettingsCommand)
def rejudge(
    context: typer.Context,
    suite: Annotated[
        str | None,
        typer.Option("--suite", help="Suites that a judge grades, with commas. Default: the one that it rates."),
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
    """Judge answers that are there already with another judge, model or prompt; nothing is generated.

    The new scores stand beside the old ones, under the judge's name.
    """
    from harness.analysis.declared import rated_suite
    from harness.core import registry
    from harness.evaluation.evaluate import EvalRequest
    from harness.evaluation.stored import recorded_backend

    suites = registry.names("benchmarks", suite or rated_suite())
    targets, default_data = _targets(run, None, base, results)
    engine, given = recorded_backend(targets, suites, data or default_data)
    asked = judge_settings(judge_model, judge_url, judge_votes, judge_price, max_cost)
    layers = _layers(settings, _scoring(context, suites), asked, given, answered=True)
    request = EvalRequest(
        targets, suites, data or default_data, engine, layers, judge, share_unscored(max_unscored), generate=False
    )
    _carry_out(request, dry_run, as_json)


@app.command(cls=SettingsCommand)
def merge(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run, by name or folder.")],
    suite: Annotated[str, typer.Option("--suite", help="Suites that were answered in shards, with commas.")],
    data: Data = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_votes: JudgeVotes = None,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    settings: Settings = None,
    max_unscored: MaxUnscored = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Join what `harness eval --shard` answered, in one job each, and score it. Gaps and overlaps are refused."""
    from harness.core import registry
    from harness.evaluation.evaluate import EvalRequest
    from harness.evaluation.stored import run_merge, shard_backend

    suites = registry.names("benchmarks", suite)
    [target], default_data = _targets(run, None, False, results)
    engine, given = shard_backend(target, suites, data or default_data)
    asked = judge_settings(judge_model, judge_url, judge_votes, judge_price, max_cost)
    layers = _layers(settings, _scoring(context, suites), asked, given, answered=True)
    request = EvalRequest(
        [target], suites, data or default_data, engine, layers, judge, share_unscored(max_unscored), generate=False
    )
    found = run_merge(request)
    if as_json:
        emit(found)
        return
    from harness.cli.tables import print_records

    print_records(found)


def _layers(
    settings: list[str] | None,
    scoring: dict[str, Any],
    judge: dict[str, Any],
    backend: dict[str, Any],
    answered: bool = False,
) -> dict[str, Any]:
    """Settings by their group: those of `--set` with those of other options.

    Args:
        settings: of `--set`.
        scoring: the suites' settings that options of their own name.
        judge: the judge's.
        backend: the backend's.
        answered: nothing is generated: the backend's settings are those that the answers came by.

    Raises:
        BadInputError: a setting is given twice, or decides nothing.
    """
    from harness.core.config import named_once, overrides
    from harness.core.errors import BadInputError

    given = overrides(settings or [])
    if answered and given.get("backend"):
        raise BadInputError(
            "the answers are there: settings of the backend decide nothing here", remedy="leave --set backend.* out"
        )
    return named_once(given, {**scoring, "judge": judge, "backend": backend})


def _scoring(context: typer.Context, suites: list[str]) -> dict[str, dict[str, str]]:
    """Suite -> its settings that were given as options.

    Raises:
        BadInputError: an option that none of the suites declares.
    """
    from harness.core import registry

    kinds = {name: registry.load("benchmarks", name) for name in suites}
    return _shared_out(declared_options(context, *kinds.values()), kinds)


def _shared_out(given: dict[str, str], kinds: dict[str, type[Benchmark]]) -> dict[str, dict[str, str]]:
    """Suite -> the given options that it declares."""
    from harness.evaluation.offline import refuse_unused

    suites = list(kinds)
    taking = {name: declared_names(kind)["setting_options"] for name, kind in kinds.items()}
    refuse_unused(", ".join(suites), set(given).difference(*taking.values()))
    found = {name: {key: given[key] for key in keys if key in given} for name, keys in taking.items()}
    return {name: values for name, values in found.items() if values}


def _endpoints(endpoint: str | None, engine: type[Backend]) -> dict[str, Any]:
    """The backend's settings that --endpoint stands for.

    Raises:
        BadInputError: an endpoint for a backend that asks none, or something that is no URL.
    """
    from harness.core.errors import BadInputError

    if endpoint is None:
        return {}
    if not engine.remote:
        raise BadInputError(
            f"the backend '{engine.name}' asks no endpoint", remedy="leave --endpoint out, or --backend"
        )
    urls = [part.strip().rstrip("/") for part in endpoint.split(",") if part.strip()]
    if wrong := [url for url in urls if not url.startswith(("http://", "https://"))]:
        raise BadInputError(f"'{wrong[0]}' is no URL of an endpoint", remedy="--endpoint http://127.0.0.1:8000/v1")
    return {"endpoints": urls}


def _targets(
    run: str | None, model: str | None, base: bool, results: Path, remote: bool = False
) -> tuple[list[Target], str]:
    """What to evaluate, and the data that suits it.

    Raises:
        BadInputError: nothing has this name; an endpoint's model is not named; an endpoint has no base here.
    """
    from harness.core.errors import BadInputError
    from harness.core.progress import console
    from harness.models import resolve
    from harness.runs.folders import find_run, latest_aligned
    from harness.runs.targets import base_model, base_of, target_of, target_of_endpoint, target_of_model

    if run and model:
        raise BadInputError(
            "--run and --model do not go together", remedy="a run's base model is evaluated with it by --base"
        )
    if model and base:
        raise BadInputError(
            "--base is the base model of runs, and --model names a model alone", remedy="leave --base out"
        )
    if remote and not run:
        if not model:
            raise BadInputError("the endpoint's model is not named", remedy="--model NAME, as the endpoint calls it")
        return [target_of_endpoint(model, results)], "official"
    if model:
        reference = resolve(model)
        return [target_of_model(reference, results)], reference.default_data
    runs = [find_run(one.strip(), results) for one in run.split(",")] if run else [latest_aligned(results)]
    if not run:
        console.print(f"taking the latest aligned run: {runs[0].name}")
    targets = [target_of(one, results) for one in runs]
    if any(target.remote for target in targets):
        if base:
            raise BadInputError("a model behind an endpoint has no base model here", remedy="leave --base out")
        return targets, "official"
    if base:
        targets = list({target.name: target for target in [base_of(one, results) for one in runs] + targets}.values())
    return targets, base_model(runs[0]).default_data


def _carry_out(request: EvalRequest, dry_run: bool, as_json: bool) -> None:
    """Do it and show the scores, or only say what would be done."""
    from harness.evaluation.evaluate import run_eval
    from harness.evaluation.plan import plan_eval

    found = plan_eval(request) if dry_run else run_eval(request)
    if as_json:
        emit(found)
        return
    from harness.cli.tables import print_plan, print_records, print_shards

    (print_plan if dry_run else print_shards if request.shard else print_records)(found)
