"""All commands: imports those of the other modules, and defines `serve`, `ask`, `quickstart` and `list`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import (
    align,
    balance,
    checkpoints,
    corrupt,
    data,
    doctor,
    evaluate,
    experiment,
    generate,
    imports,
    launch,
    plugins,
    publish,
    results,
    runs,
    score,
    view,
)
from harness.cli.options import CHECKPOINTS, START, Json, Results, app, emit
from harness.core.terminal import say

__all__ = [
    "align",
    "app",
    "balance",
    "checkpoints",
    "corrupt",
    "data",
    "doctor",
    "evaluate",
    "experiment",
    "generate",
    "imports",
    "launch",
    "plugins",
    "publish",
    "results",
    "runs",
    "score",
    "view",
]


class Kind(StrEnum):
    """Kinds of things that `harness list` shows."""

    models = "models"
    families = "families"
    methods = "methods"
    recipes = "recipes"
    benchmarks = "benchmarks"
    backends = "backends"
    judges = "judges"
    candidate_judges = "candidate-judges"
    worlds = "worlds"


@app.command(rich_help_panel=CHECKPOINTS)
def serve(
    checkpoint: Annotated[str, typer.Argument(help="A run's name, or a checkpoint folder.")],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. Any but loopback requires HARNESS_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8000,
    results: Results = Path("results"),
) -> None:
    """Serve a checkpoint with vLLM through the OpenAI protocol."""
    from harness.runs.folders import find_run
    from harness.serving.server import serve as start

    folder = Path(checkpoint)
    if not any((folder / name).exists() for name in ("config.json", "adapter_config.json")) or (
        (folder / "manifest.json").exists() and (folder / "checkpoint").is_dir()
    ):
        folder = find_run(checkpoint, results).checkpoint
    start(folder, host, port)


@app.command(rich_help_panel=CHECKPOINTS)
def ask(
    checkpoint: Annotated[str, typer.Argument(help="A run, a checkpoint folder, or a model.")],
    image: Annotated[Path, typer.Argument(help="An image file.")],
    question: Annotated[str, typer.Argument(help="Question about the image.")] = "Describe this image in detail.",
    compare: Annotated[
        str | None, typer.Option("--compare", help="Another checkpoint to ask, shown side by side.")
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="Backend. vllm takes long to start for one answer.")
    ] = "transformers",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Maximum length of the answer.")] = 512,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Print one answer; with --compare two answers, marking objects that only one mentions."""
    from harness.checkpoints.ask import ask as run
    from harness.checkpoints.ask import find_asked
    from harness.serving.choose import choose_backend

    asked = [
        find_asked(name, results) for name in dict.fromkeys(name for name in (checkpoint, compare) if name is not None)
    ]
    answers = run(asked, image, question, choose_backend(backend), max_new_tokens)
    if as_json:
        emit({name: answer.text for name, answer in answers.items()})
        return
    from harness.cli.tables import print_answers

    print_answers({name: answers[name].text for name in (one.name for one in asked)})


@app.command(rich_help_panel=START)
def quickstart(
    methods: Annotated[
        str | None, typer.Option("--methods", help="Methods to run, comma-separated. Default: the world's.")
    ] = None,
    suites: Annotated[
        str | None, typer.Option("--suites", help="Benchmarks to score, comma-separated. Default: the world's.")
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", help="Seeds of the world, comma-separated; each has its own base model.")
    ] = "0",
    split: Annotated[str, typer.Option("--split", help="test, or validation to choose settings.")] = "test",
    backend: Annotated[str | None, typer.Option("--backend", help="Backend. Default: vllm if installed.")] = None,
    results: Results = Path("results/quickstart"),
) -> None:
    """Run the whole pipeline without downloads: train a small model, align it, serve it, score it, compare."""
    from harness.experiments.quickstart import run_quickstart

    numbers = _numbers(seeds)
    named = [one.strip() for one in methods.split(",")] if methods else None
    boards = run_quickstart(named, suites, numbers, split, backend, results)
    from harness.cli.tables import print_boards

    print_boards(boards)
    if len(numbers) > 1:
        from harness.analysis.leaderboard import pool_seeds

        print_boards(pool_seeds(boards))
    from harness.reports import write_report
    from harness.runs.folders import list_runs

    page = results / "report.html"
    written = write_report(list_runs(results), page)
    say(f"report: {page.resolve()} ({written['bytes'] / 2**20:.1f} MB)")


def _numbers(text: str) -> list[int]:
    from harness.core.errors import BadInputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInputError(f"--seeds must be comma-separated integers, not '{text}'") from None


@app.command(name="list", rich_help_panel=START)
def list_(
    kind: Annotated[Kind | None, typer.Argument(help="What to list. Default: everything.")] = None,
    as_json: Json = False,
) -> None:
    """List models, their families, methods, recipes, suites, backends, judges, judges of candidates and worlds, and the package of each."""
    from harness.cli.tables import listing, print_listing

    rows = [row for row in listing() if kind is None or row["kind"] == kind.value]
    if as_json:
        emit(rows)
    else:
        print_listing(rows)
