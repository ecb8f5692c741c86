"""Spreadsheets as pandas and Excel write them: shared and inline texts, numbers, gaps; and files that are none."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from harness.core.errors import BadInputError
from harness.core.tables import read_table

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def spreadsheet(path: Path, rows: str, texts: str = "", target: str = "worksheets/sheet1.xml") -> Path:
    """A workbook with one sheet, laid out as openpyxl does."""
    parts = {
        "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
        '<sheet name="S" sheetId="1" r:id="rId7"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="rId1" Target="styles.xml"/><Relationship Id="rId7" Target="{target}"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{_MAIN}"><sheetData>{rows}</sheetData></worksheet>',
        "xl/sharedStrings.xml": f'<sst xmlns="{_MAIN}">{texts}</sst>',
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


HEAD = '<row r="1"><c r="A1" t="inlineStr"><is><t>index</t></is></c><c r="B1" t="s"><v>0</v></c></row>'
TEXTS = "<si><t>prediction</t></si><si><r><t>A </t></r><r><t>dog</t></r><rPh sb='0' eb='1'><t>x</t></rPh></si>"


@pytest.mark.parametrize("target", ["worksheets/sheet1.xml", "/xl/worksheets/sheet1.xml"])
def test_cells_are_read_as_they_are_shown(target: str, tmp_path: Path) -> None:
    rows = (
        '<row r="2"><c r="A2"><v>7</v></c><c r="B2" t="s"><v>1</v></c></row>'
        '<row r="4"><c r="B4" t="str"><v>two_x000D_lines</v></c></row>'
        '<row r="5"><c r="A5"><v>0.5</v></c><c r="B5" t="b"><v>1</v></c></row>'
        '<row r="6"><c r="A6"/></row>'
    )
    path = spreadsheet(tmp_path / "t.xlsx", HEAD + rows, TEXTS, target)
    assert list(read_table(path)) == [
        (f"{path} row 2", {"index": 7, "prediction": "A dog"}),
        (f"{path} row 4", {"index": None, "prediction": "two\rlines"}),
        (f"{path} row 5", {"index": 0.5, "prediction": True}),
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("", "empty"),
        ('<row r="1"><c r="A1" t="str"><v>a</v></c><c r="B1" t="str"><v>a</v></c></row>', "two columns 'a'"),
        (HEAD + '<row r="2"><c r="C2"><v>1</v></c></row>', "a column without a name"),
        (HEAD + '<row r="2"><c r="B2" t="s"><v>99</v></c></row>', "not a readable spreadsheet"),
        (HEAD + f'<row r="2"><c r="B2" t="str"><v>{"x" * 32_767}</v></c></row>', "probably cut"),
        (HEAD + "<row>", "not a readable spreadsheet"),
    ],
)
def test_what_cannot_be_read_is_refused(rows: str, said: str, tmp_path: Path) -> None:
    path = spreadsheet(tmp_path / "t.xlsx", rows, TEXTS)
    with pytest.raises(BadInputError, match=said):
        list(read_table(path))


def test_entities_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>")
    with pytest.raises(BadInputError, match="declares entities"):
        list(read_table(path))
    path.write_bytes(b"PK")
    with pytest.raises(BadInputError, match="not a readable spreadsheet"):
        list(read_table(path))
