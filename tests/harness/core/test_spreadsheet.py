"""Spreadsheets as pandas and Excel write them: texts, numbers, gaps; and files that are none."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from harness.core.errors import BadInputError
from harness.core.tables import read_table


def spreadsheet(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """A workbook whose first sheet has these rows."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(list(row))
    book.create_sheet("other").append(["not", "read"])
    book.save(path)
    return path


def test_cells_are_read_as_they_are_shown(tmp_path: Path) -> None:
    rows = [["index", "prediction"], [7, "A dog"], [], [None, "two_x000D_lines"], [0.5, True], [None, None]]
    path = spreadsheet(tmp_path / "t.xlsx", rows)
    assert list(read_table(path)) == [
        (f"{path} row 2", {"index": 7, "prediction": "A dog"}),
        (f"{path} row 4", {"index": None, "prediction": "two\rlines"}),
        (f"{path} row 5", {"index": 0.5, "prediction": True}),
    ]


def test_what_pandas_writes_is_read(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"index": range(300), "prediction": [f"answer {number}" for number in range(300)]})
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    rows = [row for _, row in read_table(tmp_path / "t.xlsx")]
    assert rows == frame.to_dict("records")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "empty"),
        ([["a", "a"]], "two columns 'a'"),
        ([["a", "b"], [1, 2, 3]], "a column without a name"),
        ([["a", "b"], [1, "x" * 32_767]], "probably cut"),
    ],
)
def test_what_cannot_be_read_is_refused(rows: list[list[Any]], said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=said):
        list(read_table(spreadsheet(tmp_path / "t.xlsx", rows)))


@pytest.mark.parametrize("damage", ["cut", "no sheet", "not XML", "two bytes"])
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    path = spreadsheet(tmp_path / "t.xlsx", [["index", "prediction"], [1, "A dog"]])
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "two bytes":
        path.write_bytes(b"PK")
    else:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        parts["xl/worksheets/sheet1.xml"] = b"<row>"
        if damage == "no sheet":
            del parts["xl/worksheets/sheet1.xml"]
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, part)
    with pytest.raises(BadInputError, match="not a readable spreadsheet"):
        list(read_table(path))
