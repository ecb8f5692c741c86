"""`harness data list|get|check|import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import Json, app, emit

if TYPE_CHECKING:
    from harness.datasets.catalogue import DataSet, Found

data_app = typer.Typer(
    no_args_is_help=True, help="Where benchmark and preference data comes from; get, check, import it."
)
app.add_typer(data_app, name="data")

Root = Annotated[
    Path | None,
    typer.Option("--root", help="Benchmark data root. Default: the cache folder's, which `--data official` reads."),
]
Names = Annotated[list[str] | None, typer.Argument(help="Data sets; see `harness data list`.")]


@data_app.command(name="list")
def list_(root: Root = None, as_json: Json = False) -> None:
    """All data sets: what, from whom, under which licence, how large, and whether they are here."""
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
def get(names: Names = None, root: Root = None, as_json: Json = False) -> None:
    """Download data sets, and what they need; goes on where it stopped."""
    from harness.datasets.catalogue import get as fetch
    from harness.datasets.catalogue import with_needs

    _show([(data, fetch(data, root)) for data in with_needs(_some(names))], as_json, fail=True)


@data_app.command()
def check(names: Names = None, root: Root = None, as_json: Json = False) -> None:
    """Verify files by their checksums; name what is missing and how to get it. Exits with 1 if a named data set is not whole."""
    from harness.datasets.catalogue import catalogue, with_needs
    from harness.datasets.catalogue import check as look

    chosen = with_needs(names) if names else list(catalogue().values())
    _show([(data, look(data, root)) for data in chosen], as_json, fail=bool(names))


@data_app.command(name="import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Where the files are; subfolders are searched.")],
    names: Names = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Take data sets from files that are there already, by name and checksum."""
    from harness.datasets.catalogue import bring

    _show(bring(folder, names or [], root), as_json, fail=bool(names))


def _some(names: list[str] | None) -> list[str]:
    from harness.errors import BadInputError

    if not names:
        raise BadInputError("no data set was named", remedy="see `harness data list`")
    return names


def _show(found: list[tuple[DataSet, list[Found]]], as_json: bool, *, fail: bool) -> None:
    rows: list[dict[str, Any]] = [
        {"data": data.name, "file": str(one.path), "state": one.state, "note": one.note}
        for data, states in found
        for one in states
    ]
    if as_json:
        emit(rows)
    else:
        from harness.cli.tables import print_files

        print_files(rows)
    if fail and any(row["state"] != "there" for row in rows):
        raise typer.Exit(1)
