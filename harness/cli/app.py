"""The commands."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

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


class OnError(StrEnum):
    """What to do with a bad record."""

    fail = "fail"
    skip = "skip"


class Kind(StrEnum):
    """What can be listed."""

    models = "models"
    methods = "methods"
    benchmarks = "benchmarks"
    backends = "backends"
    judges = "judges"
    worlds = "worlds"


def emit(value: Any) -> None:
    """JSON to standard output."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


@app.command()
def align(
    method: Annotated[
        str, typer.Option("--method", help="dpo, rlhfv, mfpo or a plugin's; see `harness list methods`.")
    ],
    model: Annotated[str, typer.Option("--model", help="Alias, hub id or folder; see `harness list models`.")],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Preference data: rlaif-v, rlhf-v, a .parquet or .jsonl file, a folder. Default: what suits the model.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run. Default: METHOD-MODEL-TIME.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="YAML file with the keys train and method.")] = None,
    settings: Settings = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of order and sampling.")] = None,
    full: Annotated[
        bool | None, typer.Option("--full/--lora", help="Train all weights but the vision tower, or low-rank adapters.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Use a seeded sample of this many pairs.")] = None,
    on_error: Annotated[
        OnError, typer.Option("--on-error", help="A bad record stops, or is left out and listed.")
    ] = OnError.fail,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do an existing run again.")] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Align a model with a preference method; leaves a checkpoint in a run folder."""
    from harness.config import merged, overrides, read_recipe
    from harness.runs.align import AlignRequest, run_align

    named: dict[str, Any] = {}
    if seed is not None:
        named["seed"] = seed
    if full is not None:
        named["tuning"] = "full" if full else "lora"
    layers = merged(read_recipe(recipe) if recipe else {}, overrides(settings or []), {"train": named})
    _only(layers, ("train", "method"))
    run = run_align(AlignRequest(method, model, results, data, name, layers, limit, on_error.value, resume, overwrite))
    if as_json:
        emit(run.manifest)
    else:
        typer.echo(f"checkpoint: {run.checkpoint}")
        typer.echo(f"next: harness eval --run {run.name} --suite halbench,amber")


def _only(settings: dict[str, Any], known: tuple[str, ...]) -> None:
    from harness.errors import BadInputError

    if unknown := set(settings) - set(known):
        raise BadInputError(f"--set {sorted(unknown)[0]}...: settings begin with {' or '.join(known)}")


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
    judge: Annotated[
        str | None, typer.Option("--judge", help="For suites that need one; see `harness list judges`.")
    ] = None,
    extractor: Annotated[str | None, typer.Option("--extractor", help="Object HalBench: spacy or nltk.")] = None,
    settings: Settings = None,
    max_unscored: Annotated[
        float, typer.Option("--max-unscored", help="Share of items that may have no verdict.")
    ] = 0.01,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Ask only a seeded sample of about this many items a suite.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Generate again what was answered before.")] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Serve checkpoints, ask them a suite's questions, score the answers. Answers that are there already are not asked again."""
    from harness import registry
    from harness.config import merged, overrides
    from harness.models import resolve
    from harness.progress import console
    from harness.runs.evaluate import EvalRequest, base_of, run_eval, target_of_model, target_of_run
    from harness.runs.folders import find_run, latest_aligned
    from harness.serving.choose import choose_backend

    # Everything that can be said at once is said before a model is made or an engine started.
    suites, engine = registry.names("benchmarks", suite), choose_backend(backend)
    if model:
        reference = resolve(model)
        targets, default_data = [target_of_model(reference, results)], reference.default_data
    else:
        runs = [find_run(one.strip(), results) for one in run.split(",")] if run else [latest_aligned(results)]
        if not run:
            console.print(f"evaluating the latest aligned run: {runs[0].name}")
        targets = [
            target_of_run(one) if one.aligned else target_of_model(resolve(one.base_label), results) for one in runs
        ]
        default_data = resolve(targets[0].model).default_data
        if base:
            targets = list(
                {target.name: target for target in [base_of(one, results) for one in targets] + targets}.values()
            )
    layers = merged(overrides(settings or []), {"halbench": {"extractor": extractor}} if extractor else {})
    records = run_eval(
        EvalRequest(targets, suites, data or default_data, engine, layers, judge, max_unscored, limit, overwrite)
    )
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
    extractor: Annotated[str | None, typer.Option("--extractor", help="halbench: nltk (official) or spacy.")] = None,
    similarity: Annotated[
        str | None, typer.Option("--similarity", help="amber: lemma, exact, table:FILE or spacy[:PIPELINE].")
    ] = None,
    items_file: Annotated[
        Path | None, typer.Option("--items", help="Write one JSON line an item: mentions, verdicts, counts.")
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score the items that have responses.")
    ] = False,
    max_unscored: Annotated[
        float, typer.Option("--max-unscored", help="Share of items that may have no verdict.")
    ] = 0.01,
    as_json: Json = False,
) -> None:
    """Score responses that came from anywhere."""
    from harness import registry
    from harness.config import parse
    from harness.files import write_jsonl
    from harness.runs.score import check_coverage, item_rows, score_suite

    kind = registry.load("benchmarks", suite)
    options = {"extractor": extractor, "similarity": similarity, "synonyms": synonyms}
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
    record, scores = score_suite(
        benchmark, there, answers, judge=benchmark.offline_judge, max_unscored=max_unscored, of=len(items)
    )
    if items_file:
        write_jsonl(items_file, item_rows(there, answers, scores))
    if as_json:
        emit(record)
        return
    from harness.cli.tables import print_record

    print_record(record)


@app.command()
def serve(
    checkpoint: Annotated[str, typer.Argument(help="A run's name, or a checkpoint folder.")],
    host: Annotated[
        str, typer.Option("--host", help="Other than loopback needs an API key in HARNESS_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    results: Results = Path("results"),
) -> None:
    """Serve a checkpoint with vLLM behind the OpenAI protocol."""
    from harness.runs.folders import find_run
    from harness.serving.server import serve as start

    folder = Path(checkpoint)
    if not any((folder / name).exists() for name in ("config.json", "adapter_config.json")) or (
        (folder / "manifest.json").exists() and (folder / "checkpoint").is_dir()
    ):
        folder = find_run(checkpoint, results).checkpoint
    start(folder, host, port)


@app.command()
def leaderboard(
    results: Results = Path("results"),
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Compare everything that was scored: one row a checkpoint, hallucination never without recall and length."""
    from harness import leaderboard as boards

    found = boards.collect(results)
    if as_json:
        emit(boards.as_json(found))
    elif markdown:
        typer.echo(boards.as_markdown(found), nl=False)
    elif as_csv:
        typer.echo(boards.as_csv(found), nl=False)
    else:
        from harness.cli.tables import print_boards

        print_boards(found)


@app.command()
def quickstart(
    methods: Annotated[str, typer.Option("--methods", help="Aligners to run, with commas.")] = "dpo,rlhfv,mfpo",
    suites: Annotated[
        str, typer.Option("--suites", help="Benchmarks to score, with commas.")
    ] = "halbench,amber,pope,mmhal",
    seeds: Annotated[
        str, typer.Option("--seeds", help="Seeds of the world, with commas; each has a base model of its own.")
    ] = "0",
    split: Annotated[str, typer.Option("--split", help="test, or validation to choose settings on.")] = "test",
    backend: Annotated[str | None, typer.Option("--backend", help="Default: vllm where installed.")] = None,
    results: Results = Path("results/quickstart"),
) -> None:
    """The whole road once, with nothing downloaded: train a small model, align it, serve it, score it, compare."""
    from harness.quickstart import run_quickstart

    numbers = _numbers(seeds)
    boards = run_quickstart([one.strip() for one in methods.split(",")], suites, numbers, split, backend, results)
    from harness.cli.tables import print_boards, print_pooled

    print_boards(boards)
    if len(numbers) > 1:
        from harness.quickstart import pooled

        print_pooled(pooled(results, split))


def _numbers(text: str) -> list[int]:
    from harness.errors import BadInputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInputError(f"--seeds takes whole numbers with commas, not '{text}'") from None


@app.command(name="list")
def list_(
    kind: Annotated[Kind | None, typer.Argument(help="What to list. Default: everything.")] = None,
    as_json: Json = False,
) -> None:
    """Models, methods, benchmarks, backends, judges and worlds, with where each comes from."""
    from harness.cli.tables import listing, print_listing

    rows = [row for row in listing() if kind is None or row["kind"] == kind.value]
    if as_json:
        emit(rows)
    else:
        print_listing(rows)
