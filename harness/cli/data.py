"""`harness data list|get|check|import`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.align import OnError
from harness.cli.options import DATA, Columns, ImageRoot, Json, app, emit

if TYPE_CHECKING:
    from harness.core.worlds import World
    from harness.datasets.catalogue import DataSet, Found

data_app = typer.Typer(
    no_args_is_help=True, help="List, download, check, import and corrupt benchmark and preference data."
)
app.add_typer(data_app, name="data", rich_help_panel=DATA)

Root = Annotated[
    Path | None,
    typer.Option("--root", help="Benchmark data root. Default: that of `--data official`, in the cache folder."),
]
Names = Annotated[list[str] | None, typer.Argument(help="Data sets, see `harness data list`.")]


@data_app.command(name="list")
def list_(root: Root = None, as_json: Json = False) -> None:
    """List all data sets: contents, source, licence, size, and whether they are downloaded."""
    from harness.datasets.catalogue import catalogue, check

    rows = []
    for data in catalogue().values():
        states = check(data, root)
        missing = [found for found in states if found.state != "there"]
        here = "yes" if not missing else "no" if len(missing) == len(states) else "in part"
        rows.append(
            {
                "name": data.name,
                "title": data.title,
                "source": data.source,
                "licence": data.licence,
                "size": data.size,
                "needs": list(data.needs),
                "here": here,
                "folder": data.hub or str(data.root(root)),
                "files": [dict(file) for file in data.files],
                "archives": [archive["url"] for archive in data.archives],
                "by_hand": [part["how"] for part in data.manual],
            }
        )
    if as_json:
        emit(rows)
        return
    from harness.cli.tables import print_data_sets

    print_data_sets(rows)


@data_app.command()
def get(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Data sets, see `harness data list`; or embedded worlds (pocket, pocket:1), which are made."
        ),
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Download data sets and what they need, or make embedded worlds. An interrupted download is resumed."""
    from harness.core.worlds import find_world
    from harness.datasets.catalogue import get as fetch
    from harness.datasets.catalogue import with_needs

    worlds = {name: world for name in _some(names) if (world := find_world(name))}
    sets = with_needs([name for name in _some(names) if name not in worlds])  # an unknown name, before a world is made
    made = [row for world in worlds.values() for row in _made(world)]
    _show([(data, fetch(data, root)) for data in sets], as_json, fail=True, first=made)


def _made(world: World) -> list[dict[str, Any]]:
    """Make what an embedded world has; a row for each part."""
    parts = {
        "base model": world.model(),
        "preference pairs": world.preferences(),
        "benchmark files, validation": world.benchmarks("validation"),
        "benchmark files, test": world.benchmarks("test"),
    }
    return [{"data": world.label, "file": str(path), "state": "there", "note": note} for note, path in parts.items()]


@data_app.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names (see `harness data list`), or preference data: a file, a folder, or a data set of the hub."
        ),
    ] = None,
    root: Root = None,
    model: Annotated[str | None, typer.Option("--model", help="Count tokens with this model's processor.")] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=16, help="Limit of the trainer. Default: train.max_length.")
    ] = None,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="rlaif-v, rlhf-v, sharegpt, swift, alpaca, povid, ranked, vlfeedback, trl, plain. Default: recognised by the columns.",
        ),
    ] = None,
    columns: Columns = None,
    image_root: ImageRoot = None,
    on_error: Annotated[
        OnError, typer.Option("--on-error", help="As for align: with skip, invalid records are not an error.")
    ] = OnError.fail,
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="Download images given by URL; align then uses them.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Check a seeded sample of this many pairs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify the files of data sets, and report on preference data.

    Exits with 1 if files are missing or wrong, and with 2 if align would stop.
    """
    from aligners.preferences.options import DataOptions
    from harness.cli import preferences
    from harness.datasets.catalogue import catalogue, with_needs
    from harness.datasets.catalogue import check as look

    sets, pairs = preferences.divided(names or [])
    chosen = with_needs(sets) if sets or pairs else list(catalogue().values())
    checked = [(data, look(data, root)) for data in chosen]
    pairs += [data.name for data, states in checked if data.name in sets and preferences.is_ready(data.name, states)]
    if not pairs:
        _show(checked, as_json, fail=bool(names))
        return
    options = DataOptions.parse(columns, image_root)
    asked = preferences.CheckOptions(
        model, max_length, format_name, on_error.value, allow_download, limit, root, options
    )
    reports = [preferences.report(name, asked) for name in pairs]
    if as_json:
        emit({"files": _rows(checked), "preferences": reports})
    else:
        preferences.print_reports(reports)
    if any(report["fatal"] for report in reports):
        raise typer.Exit(2)
    if any(row["state"] != "there" for row in _rows(checked)):
        if not as_json:
            _show(checked, as_json, fail=False)
        raise typer.Exit(1)


@data_app.command(name="import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder with the files, including its subfolders.")],
    names: Names = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Import data sets from local files, by name, place and checksum."""
    from harness.datasets.importing import bring

    _show(bring(folder, names or [], root), as_json, fail=bool(names))


def _some(names: list[str] | None) -> list[str]:
    from harness.core.errors import BadInputError

    if not names:
        raise BadInputError("no data set is named", remedy="see `harness data list`")
    return names


def _show(
    found: list[tuple[DataSet, list[Found]]], as_json: bool, *, fail: bool, first: Sequence[dict[str, Any]] = ()
) -> None:
    rows = [*first, *_rows(found)]
    if as_json:
        emit(rows)
    else:
        from harness.cli.tables import print_files

        print_files(rows)
    if fail and any(row["state"] != "there" for row in rows):
        raise typer.Exit(1)


def _rows(checked: list[tuple[DataSet, list[Found]]]) -> list[dict[str, Any]]:
    return [
        {"data": data.name, "file": str(file.path), "state": file.state, "note": file.note}
        for data, states in checked
        for file in states
    ]
