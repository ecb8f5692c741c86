"""Reading rows of a user's table: Parquet, comma- or tab-separated text, a spreadsheet, JSON lines or a JSON array."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError
from harness.core.reading import open_binary, read_records, read_text
from harness.core.spreadsheet import read_spreadsheet

TABLES = (".parquet", ".csv", ".tsv")
_LONGEST_CELL = 1 << 30
"""Characters of one cell: pictures in base64 are longer than the 131,072 that Python's reader allows by default."""
_BATCH = 64


def read_table(path: Path, what: str = "table") -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a table; the type is recognised by the file's name, and any other is read as JSON.

    The place is "PATH:LINE" for text, "PATH row N" for Parquet (N counts from 1) and spreadsheets (N as it is shown). Cells of comma- and
    tab-separated text are texts.

    Raises:
        BadInputError: the file is missing or damaged, or a spreadsheet of an older kind.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path, what)
    if suffix in (".csv", ".tsv"):
        return _separated(path, what, "\t" if suffix == ".tsv" else ",")
    if suffix == ".xlsx":
        return read_spreadsheet(path, what)
    if suffix in (".xls", ".ods"):
        raise BadInputError(
            f"the {what} is a spreadsheet of a kind that is not read",
            where=str(path),
            remedy="save it as XLSX or CSV (UTF-8)",
        )
    return read_records(path, what)


def _parquet(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with open_binary(path, what) as stream:
        try:
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise BadInputError(
                f"the {what} is not a readable Parquet file: {str(error).splitlines()[0]}",
                where=str(path),
                remedy="download it again (a Git LFS pointer is a small text file, not the table)",
            ) from None


def _separated(path: Path, what: str, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        reader = csv.reader(io.StringIO(read_text(path, what), newline=""), delimiter=delimiter, strict=True)
        header = next(reader, None)
        if not header:
            raise BadInputError(f"the {what} is empty", where=str(path), remedy="the first line names the columns")
        _check_header(header, path, what)
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                if len(cells) != len(header):
                    raise BadInputError(
                        f"the row has {len(cells)} cells, but the {what} has {len(header)} columns",
                        where=f"{path}:{line}",
                    )
                yield f"{path}:{line}", dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadInputError(f"the {what} cannot be read as a table: {error}", where=str(path)) from None
    finally:
        csv.field_size_limit(before)


def _check_header(header: Sequence[str], path: Path, what: str) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise BadInputError(f"the {what} has two columns '{twice[0]}'", where=f"{path}:1", remedy="rename one of them")
