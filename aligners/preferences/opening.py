"""Opening a file of records with the reader for its type."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path

from aligners.preferences.cells import RowGroups
from aligners.preferences.containers import SeparatedTable, TarTable, unpacked
from aligners.preferences.tables import IMAGE_COLUMNS, ArrayTable, ArrowTable, LineTable, ParquetTable, Table
from harness.core.reading import decode, open_binary


def open_table(file: Path, groups: RowGroups, cache: Path | None, named: Mapping[str, str] | None = None) -> Table:
    """The file's reader, by its suffix; for JSON by its first character.

    Args:
        file: the file.
        groups: the cache of row groups.
        cache: folder of regrouped copies of Parquet files and of unpacked files.
        named: the formats' names of columns that have another name in the file (`DataOptions.columns`).

    Raises:
        BadInputError: its content does not match its suffix, or it is not a file.
    """
    named = named or {}
    columns = frozenset({*IMAGE_COLUMNS, *(named[name] for name in IMAGE_COLUMNS if name in named)})
    suffix = file.suffix.lower()
    with open_binary(file, "data") as stream:
        begin = stream.read(256)
    if suffix == ".gz":
        table = open_table(unpacked(file, cache), groups, cache, named)
        table.named = file
        return table
    if suffix == ".parquet":
        return ParquetTable(file, groups, cache, columns)
    if suffix == ".arrow":
        return ArrowTable(file, groups, columns)
    if suffix == ".tar":
        return TarTable(file)
    decode(begin[: begin.rfind(b"\n") + 1], "data", str(file))  # a wrong encoding is one error, not one per line
    if suffix in (".csv", ".tsv"):
        return SeparatedTable(file, named)
    array = begin.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    return ArrayTable(file) if array or suffix == ".json" else LineTable(file, columns)
