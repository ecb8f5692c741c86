"""All commands: those of the modules beside this one, and `serve`, `ask`, `quickstart` and `list`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import align, checkpoints, corrupt, data, doctor, evaluate, experiment, launch, results, runs, score
from harness.cli.options import Json, Results, app, emit
from harness.core.terminal import say

__all__ = [
    "align",
    "app",
    "checkpoints",
    "corrupt",
    "data",
    "doctor",
    "evaluate",
    "experiment",
    "launch",
    "results",
    "runs",
    "score",
]


class Kind(StrEnum):
    """What can be listed."""

    models = "models"
    methods = "methods"
    benchmarks = "benchmarks"
    backends = "backends"
    judges = "judges"
    worlds = "worlds"


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
def ask(
    checkpoint: Annotated[str, typer.Argument(help="A run, a checkpoint folder, or a model.")],
    image: Annotated[Path, typer.Argument(help="An image file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")] = "Describe this image in detail.",
    compare: Annotated[
        str | None, typer.Option("--compare", help="Another checkpoint, asked the same: side by side.")
    ] = None,
    backend: Annotated[str, typer.Option("--backend", help="vllm starts slowly, for one answer.")] = "transformers",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 512,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """One answer in the terminal; with --compare two, with the objects marked that only one of them names."""
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


@app.command()
def quickstart(
    methods: Annotated[
        str | None, typer.Option("--methods", help="Aligners to run, with commas. Default: the world's.")
    ] = None,
    suites: Annotated[
        str | None, typer.Option("--suites", help="Benchmarks to score, with commas. Default: the world's.")
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", help="Seeds of the world, with commas; each has a base model of its own.")
    ] = "0",
    split: Annotated[str, typer.Option("--split", help="test, or validation to choose settings on.")] = "test",
    backend: Annotated[str | None, typer.Option("--backend", help="Default: vllm where installed.")] = None,
    results: Results = Path("results/quickstart"),
) -> None:
    """The whole road once, with nothing downloaded: train a small model, align it, serve it, score it, compare."""
    from harness.experiments.quickstart import run_quickstart

    numbers = _numbers(seeds)
    named = [one.strip() for one in methods.split(",")] if methods else None
    boards = run_quickstart(named, suites, numbers, split, backend, results)
    from harness.cli.tables import print_boards

    print_boards(boards)
    if len(numbers) > 1:
        from harness.analysis.leaderboard import pool_seeds

        print_boards(pool_seeds(boards))
    from harness.report import write_report
    from harness.runs.folders import list_runs

    page = results / "report.html"
    written = write_report(list_runs(results), page)
    say(f"report: {page.resolve()} ({written['bytes'] / 2**20:.1f} MB)")


def _numbers(text: str) -> list[int]:
    from harness.core.errors import BadInputError

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
