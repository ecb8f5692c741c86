"""`harness eval`, `score`, `rejudge` and `calibrate`: everything that ends in scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import (
    Json,
    JudgeModel,
    JudgeName,
    JudgePrice,
    JudgeUrl,
    JudgeVotes,
    MaxCost,
    Results,
    Settings,
    app,
    emit,
    judge_settings,
)

if TYPE_CHECKING:
    from harness.runs.evaluate import Target

MaxUnscored = Annotated[float, typer.Option("--max-unscored", help="Share of items that may have no verdict.")]
Extractor = Annotated[
    str | None,
    typer.Option("--extractor", help="Object HalBench: nltk (official), llm (official, a judge), spacy[:PIPELINE]."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be asked and what judging would cost; do nothing.")
]


@app.command(name="eval")
def evaluate(
    suite: Annotated[
        str, typer.Option("--suite", help="halbench, amber, pope, mmhal or a plugin's; several with commas.")
    ],
    run: Annotated[
        str | None,
        typer.Option("--run", help="Runs by name or folder, several with commas. Default: the latest aligned run."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="A base model instead of a run.")] = None,
    base: Annotated[bool, typer.Option("--base", help="Evaluate the runs' base model too.")] = False,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="official, pocket[:SEED][@validation|@test], or a folder. Default: what suits the model."
        ),
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="vllm, transformers or a plugin's. Default: vllm where installed.")
    ] = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_votes: JudgeVotes = None,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    extractor: Extractor = None,
    settings: Settings = None,
    max_unscored: MaxUnscored = 0.01,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Ask only a seeded sample of about this many items a suite.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Generate again what was answered before.")] = False,
    dry_run: DryRun = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Serve checkpoints, ask them a suite's questions, score the answers. Answers that are there already are not asked again."""
    from harness import registry
    from harness.config import merged, overrides
    from harness.runs.evaluate import EvalRequest, run_eval
    from harness.serving.choose import choose_backend

    # Everything that can be said at once is said before a model is made or an engine started.
    suites, engine = registry.names("benchmarks", suite), choose_backend(backend)
    targets, default_data = _targets(run, model, base, results)
    layers = merged(
        overrides(settings or []),
        {"halbench": {"extractor": extractor}} if extractor else {},
        {"judge": judge_settings(judge_model, judge_url, judge_votes, judge_price, max_cost)},
    )
    request = EvalRequest(
        targets, suites, data or default_data, engine, layers, judge, max_unscored, limit, overwrite=overwrite
    )
    if dry_run:
        _show_plan(request, as_json)
    else:
        _show_records(run_eval(request), as_json)


@app.command()
def rejudge(
    suite: Annotated[str, typer.Option("--suite", help="Suites that a judge grades, with commas.")] = "mmhal",
    run: Annotated[
        str | None,
        typer.Option("--run", help="Runs by name or folder, several with commas. Default: the latest aligned."),
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Judge the runs' base model too.")] = False,
    data: Annotated[
        str | None, typer.Option("--data", help="As it was given to `harness eval`. Default: what suits the model.")
    ] = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_votes: JudgeVotes = None,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    extractor: Extractor = None,
    settings: Settings = None,
    max_unscored: MaxUnscored = 0.01,
    dry_run: DryRun = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Judge answers that are there already with another judge, model or prompt; nothing is generated.

    The new scores stand beside the old ones, under the judge's name.
    """
    from harness import registry
    from harness.config import merged, overrides
    from harness.runs.evaluate import EvalRequest, recorded_backend, run_eval

    suites = registry.names("benchmarks", suite)
    targets, default_data = _targets(run, None, base, results)
    engine = recorded_backend(targets, suites, data or default_data)
    layers = merged(
        overrides(settings or []),
        {"halbench": {"extractor": extractor}} if extractor else {},
        {"judge": judge_settings(judge_model, judge_url, judge_votes, judge_price, max_cost)},
    )
    request = EvalRequest(targets, suites, data or default_data, engine, layers, judge, max_unscored, generate=False)
    if dry_run:
        _show_plan(request, as_json)
    else:
        _show_records(run_eval(request), as_json)


def _targets(run: str | None, model: str | None, base: bool, results: Path) -> tuple[list[Target], str]:
    """What to evaluate, and the data that suits it."""
    from harness.models import resolve
    from harness.progress import console
    from harness.runs.evaluate import base_of, target_of_model, target_of_run
    from harness.runs.folders import find_run, latest_aligned

    if model:
        reference = resolve(model)
        return [target_of_model(reference, results)], reference.default_data
    runs = [find_run(one.strip(), results) for one in run.split(",")] if run else [latest_aligned(results)]
    if not run:
        console.print(f"taking the latest aligned run: {runs[0].name}")
    targets = [target_of_run(one) if one.aligned else target_of_model(resolve(one.base_label), results) for one in runs]
    if base:
        targets = list(
            {target.name: target for target in [base_of(one, results) for one in targets] + targets}.values()
        )
    return targets, resolve(targets[0].model).default_data


def _show_plan(request: Any, as_json: bool) -> None:
    from harness.runs.plan import plan_eval

    rows = plan_eval(request)
    if as_json:
        emit(rows)
        return
    from harness.cli.tables import print_plan

    print_plan(rows)


def _show_records(records: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        emit(records)
        return
    from harness.cli.tables import print_records

    print_records(records)


@app.command()
def score(
    suite: Annotated[str, typer.Option("--suite", help="halbench, amber, pope or mmhal.")],
    responses: Annotated[
        Path | None, typer.Option("--responses", help="The responses: JSON lines (AMBER: also a JSON list).")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="halbench: COCO folder or JSON lines; amber: annotations.json.")
    ] = None,
    synonyms: Annotated[
        Path | None, typer.Option("--synonyms", help="halbench: the vocabulary file. Default: our own table.")
    ] = None,
    questions: Annotated[Path | None, typer.Option("--questions", help="pope: one split's questions.")] = None,
    relations: Annotated[Path | None, typer.Option("--relations", help="amber: relation.json.")] = None,
    safe_words: Annotated[Path | None, typer.Option("--safe-words", help="amber: safe_words.txt.")] = None,
    reviews: Annotated[
        Path | None, typer.Option("--reviews", help="mmhal: the judge's replies, JSON lines {index, review}.")
    ] = None,
    extractor: Extractor = None,
    matched_words: Annotated[
        int | None,
        typer.Option(
            "--matched-words", min=1, help="halbench: CHAIR of the first so many words, beside the plain one."
        ),
    ] = None,
    similarity: Annotated[
        str | None, typer.Option("--similarity", help="amber: lemma, exact, table:FILE or spacy[:PIPELINE].")
    ] = None,
    items_file: Annotated[
        Path | None, typer.Option("--items", help="Write one JSON line an item: mentions, verdicts, counts.")
    ] = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score the items that have responses.")
    ] = False,
    max_unscored: MaxUnscored = 0.01,
    as_json: Json = False,
) -> None:
    """Score responses that came from anywhere."""
    from harness import registry
    from harness.config import parse
    from harness.files import write_jsonl
    from harness.runs.score import check_coverage, item_rows, make_judge, score_suite

    kind = registry.load("benchmarks", suite)
    options = {
        "extractor": extractor,
        "similarity": similarity,
        "synonyms": synonyms,
        "matched_words": matched_words,
    }
    benchmark = kind(
        parse(kind.Settings, {name: value for name, value in options.items() if value is not None}, f"suite {suite}")
    )
    files = {
        "responses": responses,
        "annotations": annotations,
        "questions": questions,
        "relations": relations,
        "safe_words": safe_words,
        "reviews": reviews,
    }
    items, answers = benchmark.read_offline({name: path for name, path in files.items() if path is not None})
    there = check_coverage(items, answers, allow_partial)
    asked = benchmark.offline_judge
    if asked is None and benchmark.judge_requests(there, answers):
        named = judge_settings(judge_model, judge_url, None, judge_price, max_cost)
        asked = make_judge(judge or "openai", named)
    record, scores = score_suite(benchmark, there, answers, judge=asked, max_unscored=max_unscored, of=len(items))
    if items_file:
        write_jsonl(items_file, item_rows(there, answers, scores))
    if as_json:
        emit(record)
        return
    from harness.cli.tables import print_record

    print_record(record)


@app.command()
def calibrate(
    reference: Annotated[
        Path,
        typer.Option(
            "--reference", help="Rated answers: an item file of evals/mmhal@.../, or JSON lines {prompt, rating}."
        ),
    ],
    suite: Annotated[str, typer.Option("--suite", help="The suite whose ratings they are.")] = "mmhal",
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_votes: JudgeVotes = 2,
    judge_price: JudgePrice = None,
    max_cost: MaxCost = None,
    as_json: Json = False,
) -> None:
    """How far a judge agrees with a reference rater (another judge, or people), and with itself."""
    from harness import registry
    from harness.judging.calibration import calibrate as compare
    from harness.runs.score import make_judge

    benchmark = registry.load("benchmarks", suite)()
    named = judge_settings(judge_model, judge_url, judge_votes, judge_price, max_cost)
    found = compare(make_judge(judge or "openai", named), reference, benchmark.read_reply)
    if as_json:
        emit(found)
        return
    from harness.cli.tables import print_calibration

    print_calibration(found)
