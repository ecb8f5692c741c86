"""`harness new` and `harness plugin check`, for authors of plugins."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import EXTEND, app
from harness.core.terminal import say

plugin_app = typer.Typer(no_args_is_help=True, help="Check plugins: methods and benchmarks of your own.")
app.add_typer(plugin_app, name="plugin", rich_help_panel=EXTEND)


class Sort(StrEnum):
    """What `harness new` writes."""

    method = "method"
    benchmark = "benchmark"


@app.command(rich_help_panel=EXTEND)
def new(
    sort: Annotated[Sort, typer.Argument(help="What the package contains.")],
    name: Annotated[str, typer.Argument(help="Its name in `harness list`: small letters, digits and hyphens.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new folder. Default: harness-NAME.")
    ] = None,
) -> None:
    """Write a small package with a method or a benchmark, and a test that passes."""
    from harness.development import new_plugin

    folder = output or Path(f"harness-{name}")
    for file in new_plugin(sort.value, name, folder):
        say(f"{folder / file}")
    say(f"next: cd {folder} && pip install -e . && pytest")


@plugin_app.command()
def check(
    plugin: Annotated[str, typer.Argument(metavar="NAME|FILE.py:CLASS", help="A method or a benchmark.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="The folder with a benchmark's files. Default: where harness data get puts them."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="The most questions of a benchmark that are scored.")
    ] = 200,
) -> None:
    """Check what training or scoring relies on: shapes, finite gradients, independence of order, resampling."""
    from aligners.base import Aligner
    from harness.core import registry
    from harness.core.errors import BadInputError
    from harness.core.file_plugins import load_file
    from harness.core.paths import cache_folder
    from harness.development import check_benchmark, check_method

    loaded = load_file(plugin)
    is_method = issubclass(loaded[0], Aligner) if loaded else plugin in registry.entries("aligners")
    if is_method:
        if data is not None:
            raise BadInputError("--data is for benchmarks, and this is a method", remedy="leave it out")
        facts = check_method(registry.load("aligners", plugin))
    else:
        benchmark = registry.load("benchmarks", plugin)()
        facts = check_benchmark(benchmark, data or cache_folder() / "benchmarks" / benchmark.name, limit)
    for fact in facts:
        say(f"ok  {fact}" if not fact.startswith("not checked") else fact)
