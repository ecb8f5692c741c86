"""The contact sheet: as a picture and as a page, of any set that has rejected images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aligners.preferences import read_preferences
from aligners.rejected_images.preview import preview
from harness.core.errors import BadInputError
from tests.aligners.rejected_images.test_image_set import made, preferences


def test_a_sheet_shows_original_mask_and_rejected_image(tmp_path: Path) -> None:
    # 60 x 40 pixels become 240 x 160: every pixel a square of 4.
    made(tmp_path / "set", read_preferences(str(preferences(tmp_path / "prefs.parquet", 5))).examples)
    assert preview(tmp_path / "set", tmp_path / "sheet.png", 3) == 3
    three = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert preview(tmp_path / "set", tmp_path / "all.png", 24) == 5
    five = np.asarray(Image.open(tmp_path / "all.png"))
    assert five.shape[1] == three.shape[1] and five.shape[0] > three.shape[0]
    # The outline is two sheet pixels wide: around four boxes of 80 x 80, and around the whole image where nothing was found.
    outline = (five == (255, 0, 200)).all(-1).sum()
    assert outline == pytest.approx(4 * (80**2 - 76**2) + (240 * 160 - 236 * 156), abs=100)


def test_a_page_holds_its_pictures_and_escapes_what_the_data_say(tmp_path: Path) -> None:
    source = preferences(tmp_path / "prefs.parquet", 2)
    rows = pq.read_table(source).to_pylist()
    rows[0]["chosen"] = "A dog <script>alert(1)</script> & more."
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows), source)
    made(tmp_path / "set", read_preferences(str(source)).examples)
    preview(tmp_path / "set", tmp_path / "sheet.html", 24)
    page = (tmp_path / "sheet.html").read_text()
    assert len(re.findall(r'<img src="data:image/webp;base64,', page)) == 6
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more." in page
    assert page.count("t = 900 (vcd, scale clip)") == 2 and "$" not in page
    # A set that is older than the two settings.
    [file] = (tmp_path / "set").glob("*.parquet")
    pq.write_table(pq.read_table(file).drop_columns(["schedule", "scale"]), file)
    preview(tmp_path / "set", tmp_path / "old.html", 24)
    assert (tmp_path / "old.html").read_text().count("t = 900 (ddpm, scale unit)") == 2


def test_what_cannot_be_shown_is_said(tmp_path: Path) -> None:
    source = preferences(tmp_path / "prefs.parquet", 1)
    for path, output, said in (
        (source, "sheet.png", "no column 'rejected_image'"),
        (tmp_path / "none", "sheet.png", "no set of rejected images"),
        (source, "sheet.pdf", "not '.pdf'"),
    ):
        with pytest.raises(BadInputError, match=said):
            preview(path, tmp_path / output, 24)
