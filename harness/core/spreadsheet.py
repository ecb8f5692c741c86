"""Rows of the first sheet of a spreadsheet (.xlsx), as VLMEvalKit and pandas write it; read by openpyxl."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

from harness.core.errors import BadInputError
from harness.core.reading import open_binary

_MOST = 1 << 30
"""Bytes of one part of the file, unpacked."""
_SHEET = ".//{*}sheet"
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    ElementTree.ParseError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,
)
"""What the readers of archive, XML and cells raise at damaged files."""
_FULL_CELL = 32_767
"""Characters that a cell can have; writers cut longer texts."""


def read_spreadsheet(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """("PATH row N", row) of the first sheet, whose first row names the columns; N counts as in the program that shows it.

    Raises:
        BadInputError: the file is missing, damaged or encrypted, a column's name is missing or there twice, or a cell is so long that its
            text was probably cut.
    """
    with open_binary(path, what) as stream:
        try:
            rows = list(_rows(stream))
        except _DAMAGED as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise BadInputError(
                f"the {what} is not a readable spreadsheet: {said}", where=str(path), remedy="save it as CSV (UTF-8)"
            ) from None
    if not rows or not any(name not in (None, "") for name in rows[0]):
        raise BadInputError(f"the {what} is empty", where=str(path), remedy="the first row names the columns")
    header, *others = rows
    names = {place: str(name) for place, name in enumerate(header) if name not in (None, "")}
    if twice := sorted({name for name in names.values() if [*names.values()].count(name) > 1}):
        raise BadInputError(f"the {what} has two columns '{twice[0]}'", where=str(path), remedy="rename one of them")
    for number, cells in enumerate(others, 2):
        if all(value is None for value in cells):
            continue
        where = f"{path} row {number}"
        for place, value in enumerate(cells):
            if value is not None and place not in names:
                raise BadInputError("a cell is in a column without a name", where=where, remedy="name the column")
            if isinstance(value, str) and len(value) >= _FULL_CELL:
                raise BadInputError(
                    f"the cell of '{names[place]}' is as long as a spreadsheet allows, so its text is probably cut",
                    where=where,
                    remedy="have the tool write a TSV or JSON file",
                )
        yield where, {name: cells[place] if place < len(cells) else None for place, name in names.items()}


def _rows(stream: BinaryIO) -> Iterator[Sequence[Any]]:
    """The values of every row of the first sheet, empty rows included."""
    import openpyxl
    from openpyxl.utils.escape import unescape

    with zipfile.ZipFile(stream) as archive:
        if large := [part.filename for part in archive.infolist() if part.file_size > _MOST]:
            raise ValueError(f"{large[0]} is larger than {_MOST:,} bytes")
        sheets = [part.get("name") for part in ElementTree.fromstring(archive.read("xl/workbook.xml")).iterfind(_SHEET)]
    book = openpyxl.load_workbook(stream, read_only=True, data_only=True)
    try:
        if not sheets or book.sheetnames[:1] != sheets[:1]:  # openpyxl passes over a sheet whose part is missing
            raise ValueError("its first sheet is missing")
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # some writers declare fewer rows than they write
        for cells in sheet.iter_rows(values_only=True):
            yield [unescape(value) if isinstance(value, str) else value for value in cells]
    finally:
        book.close()
