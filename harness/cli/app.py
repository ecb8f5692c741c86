"""All commands: those of the modules beside this one, and `serve`, `leaderboard`, `quickstart` and `list`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import align, data, doctor, evaluate, score
from harness.cli.options import Json, Results, app, emit

__all__ = ["align", "app", "data", "doctor", "evaluate", "score"]


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
    from harness.runs.ask import ask as run
    from harness.runs.ask import find_asked
    from harness.serving.choose import choose_backend

    asked = [find_asked(name, results) for name in dict.fromkeys(name for name in (checkpoint, compare) if name)]
    answers = run(asked, image, question, choose_backend(backend), max_new_tokens)
    if as_json:
        emit({name: answer.text for name, answer in answers.items()})
        return
    from harness.cli.tables import print_answers

    print_answers({name: answers[name].text for name in (one.name for one in asked)})


@app.command()
def leaderboard(
    results: Results = Path("results"),
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX for the package booktabs.")] = False,
) -> None:
    """Compare everything that was scored: one row a checkpoint, hallucination never without recall and length."""
    from harness import leaderboard as boards

    found = boards.collect(results)
    if as_json:
        emit(boards.as_json(found))
    elif markdown:
        typer.echo(boards.as_markdown(found), nl=False)
    elif latex:
        typer.echo(boards.as_latex(found), nl=False)
    elif as_csv:
        typer.echo(boards.as_csv(found), nl=False)
    else:
        from harness.cli.tables import print_boards

        print_boards(found)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Runs by name or folder; each is compared with the first.")],
    suite: Annotated[str | None, typer.Option("--suite", help="Only these, with commas.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All metrics, not only the headline ones.")] = False,
    changes: Annotated[int, typer.Option("--changes", min=0, help="Changed items to show for each suite.")] = 3,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Whether two runs differ by more than luck: paired tests on the same items, and the items that changed most."""
    from harness import registry
    from harness.compare import as_json as values_of
    from harness.compare import compare as run
    from harness.runs.folders import find_run

    suites = registry.names("benchmarks", suite) if suite else None
    found, reasons = run([find_run(name, results) for name in runs], suites)
    if as_json:
        emit(values_of(found, reasons, changes))
        return
    from harness.cli.compare_tables import print_comparisons

    print_comparisons(found, reasons, changes, every)


@app.command()
def report(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs by name or folder. Default: all under --results.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    samples: Annotated[int, typer.Option("--samples", min=1, help="Show at most about so many items.")] = 2000,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Write one HTML file with leaderboard, charts, and every sample with its picture and marked answers; opens from disk."""
    from harness.report import write_report
    from harness.runs.folders import find_run, list_runs

    found = write_report(
        [find_run(name, results) for name in runs] if runs else list_runs(results), output, most=samples
    )
    if as_json:
        emit(found | {"report": str(output.resolve())})
        return
    for reason in found["left_out"]:
        typer.echo(f"left out: {reason}", err=True)
    typer.echo(
        f"report: {output.resolve()} ({found['samples']} of {found['of']} samples, {found['bytes'] / 2**20:.1f} MB)"
    )


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
    from harness.report import write_report
    from harness.runs.folders import list_runs

    page = results / "report.html"
    written = write_report(list_runs(results), page)
    typer.echo(f"report: {page.resolve()} ({written['bytes'] / 2**20:.1f} MB)")


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
