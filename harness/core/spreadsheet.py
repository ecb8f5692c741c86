"""Rows of the first sheet of a spreadsheet (.xlsx, Office Open XML), as VLMEvalKit and pandas write it.

Only cells are read: values, no formulas' results that were never computed, no formats. So dates are numbers. Nothing else of the file is
opened, and a file that would need much more memory than it says is refused.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from harness.core.errors import BadInputError
from harness.core.reading import open_binary

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_LINK = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_MOST = 1 << 30
"""Bytes of one part of the file, unpacked."""
_FULL_CELL = 32_767
"""Characters that a cell can have; writers cut longer texts."""
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
_COLUMN = re.compile(r"([A-Z]{1,3})\d+")


def read_spreadsheet(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """("PATH row N", row) of the first sheet, whose first row names the columns; N counts as in the program that shows it.

    Raises:
        BadInputError: the file is missing, damaged or encrypted, a column's name is missing or there twice, or a cell is so long that its
            text was probably cut.
    """
    with open_binary(path, what) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                rows = list(_rows(archive, path, what))
        except (
            zipfile.BadZipFile,
            LookupError,
            StopIteration,
            ElementTree.ParseError,
            ValueError,
            NotImplementedError,
        ) as error:
            raise BadInputError(
                f"the {what} is not a readable spreadsheet: {error}", where=str(path), remedy="save it as CSV (UTF-8)"
            ) from None
    if not rows:
        raise BadInputError(f"the {what} is empty", where=str(path), remedy="the first row names the columns")
    (_, header), *rows = rows
    names = {place: str(name) for place, name in header.items() if name not in (None, "")}
    if twice := sorted({name for name in names.values() if [*names.values()].count(name) > 1}):
        raise BadInputError(f"the {what} has two columns '{twice[0]}'", where=str(path), remedy="rename one of them")
    for number, cells in rows:
        where = f"{path} row {number}"
        for place, value in cells.items():
            if value is not None and place not in names:
                raise BadInputError("a cell is in a column without a name", where=where, remedy="name the column")
            if isinstance(value, str) and len(value) >= _FULL_CELL:
                raise BadInputError(
                    f"the cell of '{names[place]}' is as long as a spreadsheet allows, so its text is probably cut",
                    where=where,
                    remedy="have the tool write a TSV or JSON file",
                )
        if any(value is not None for value in cells.values()):
            yield where, {name: cells.get(place) for place, name in names.items()}


def _rows(archive: zipfile.ZipFile, path: Path, what: str) -> Iterator[tuple[int, dict[int, Any]]]:
    """(number, column -> value) of every row of the first sheet."""
    texts = []
    if "xl/sharedStrings.xml" in archive.namelist():
        texts = [_text(one) for one in _part(archive, "xl/sharedStrings.xml").iter(f"{_MAIN}si")]
    sheet = _part(archive, _first_sheet(archive))
    for number, row in enumerate(sheet.iter(f"{_MAIN}row"), 1):
        cells: dict[int, Any] = {}
        for place, cell in enumerate(row.iter(f"{_MAIN}c")):
            named = _COLUMN.fullmatch(cell.get("r", ""))
            cells[_index(named.group(1)) if named else place] = _value(cell, texts)
        yield int(row.get("r", number)), cells


def _part(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if archive.getinfo(name).file_size > _MOST:
        raise ValueError(f"{name} is larger than {_MOST:,} bytes")
    content = archive.read(name)
    if b"<!DOCTYPE" in content[:2000] or b"<!ENTITY" in content[:2000]:
        raise ValueError(f"{name} declares entities")
    return ElementTree.fromstring(content)


def _first_sheet(archive: zipfile.ZipFile) -> str:
    """The name of the part with the sheet that comes first."""
    sheet = next(_part(archive, "xl/workbook.xml").iter(f"{_MAIN}sheet"))
    for link in _part(archive, "xl/_rels/workbook.xml.rels"):
        if link.get("Id") == sheet.get(_LINK):
            target = link.get("Target", "")
            return target.lstrip("/") if target.startswith("/") else f"xl/{target}"
    raise ValueError("it has no sheet")


def _index(letters: str) -> int:
    place = 0
    for letter in letters:
        place = place * 26 + ord(letter) - ord("A") + 1
    return place - 1


def _text(element: ElementTree.Element) -> str:
    """The text of a string item: of its runs, but not of the phonetic hints."""
    runs = [child for child in element if child.tag in (f"{_MAIN}t", f"{_MAIN}r")]
    parts = [part.text or "" for run in runs for part in run.iter(f"{_MAIN}t")]
    return _ESCAPED.sub(lambda found: chr(int(found.group(1), 16)), "".join(parts))


def _value(cell: ElementTree.Element, texts: list[str]) -> Any:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        inline = cell.find(f"{_MAIN}is")
        return None if inline is None else _text(inline)
    content = cell.find(f"{_MAIN}v")
    if content is None or content.text is None:
        return None
    if kind == "s":
        return texts[int(content.text)]
    if kind == "b":
        return content.text == "1"
    if kind in ("str", "e", "d"):
        return _ESCAPED.sub(lambda found: chr(int(found.group(1), 16)), content.text)
    number = float(content.text)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
