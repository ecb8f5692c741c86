"""Sets with a list of rejected images per example: `harness data corrupt --levels`, for LPOI."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aligners.base import PrepareContext, rejected_names
from aligners.lpoi import LPOI, LPOISettings
from aligners.preferences import read_preferences
from aligners.rejected_images.image_set import set_files, set_rows
from aligners.rejected_images.preview import preview
from tests.aligners.rejected_images.test_image_set import harness, preferences

LEVELS = (0.25, 0.5, 1.0)
COVER = ("--corruption", "cover", "--set", "top_k=1", "--levels", "0.25,0.5,1")


def fingerprints(data: Path) -> list[list[str]]:
    """Of each example's list of rejected images, after LPOI has prepared the data; nothing is left to be made."""
    given = read_preferences(str(data)).examples
    prepared = LPOI(LPOISettings(levels=LEVELS)).prepare(given, PrepareContext(data.parent / "cache", 0))
    return [[example.images[name].fingerprint() for name in rejected_names(len(LEVELS))] for example in prepared]


@pytest.mark.slow
@pytest.mark.claims("data corrupt --levels")
def test_a_set_of_lists_has_the_images_that_a_training_would_make(tmp_path: Path) -> None:
    source, folder = preferences(tmp_path / "prefs.parquet", 5), tmp_path / "set"
    done = harness("corrupt", str(source), "-o", str(folder), *COVER)
    assert done.returncode == 0, done.stderr
    assert "set with 3 rejected images per example: 5 examples in 1 files" in done.stdout
    assert f"harness align --method lpoi --data {folder}" in done.stdout
    assert json.loads((folder / "manifest.json").read_text())["levels"] == [*LEVELS]
    rows = list(set_rows(set_files(folder)))
    assert {tuple(row["levels"]) for row in rows} == {LEVELS} and "rejected_image" not in rows[0]
    assert rows[0]["chosen_spans"] == [[2, 5]] and rows[0]["keywords"] == ["dog"]
    assert fingerprints(folder) == fingerprints(source)
    assert len(list((tmp_path / "cache/image_preferences").iterdir())) == 1, "of the set, nothing was made again"
    [checked] = json.loads(harness("check", str(folder), "--json").stdout)["preferences"]
    assert checked["unread_columns"] == {} and checked["usable"] == 5


@pytest.mark.exhaustive
def test_shards_in_processes_give_the_same_rows(tmp_path: Path) -> None:
    source = preferences(tmp_path / "prefs.parquet", 5)
    assert harness("corrupt", str(source), "-o", str(tmp_path / "one"), *COVER).returncode == 0
    for number in (1, 2):
        task = [
            "corrupt",
            str(source),
            "-o",
            str(tmp_path / "two"),
            *COVER,
            "--shard",
            f"{number}/2",
            "--part-size",
            "1",
        ]
        assert harness(*task, "--workers", "2").returncode == 0
    one, two = (list(set_rows(set_files(tmp_path / name))) for name in ("one", "two"))
    assert {row["id"]: row for row in one} == {row["id"]: row for row in two} and len(one) == len(two) == 5


@pytest.mark.slow
def test_lists_of_the_data_are_kept_or_replaced(tmp_path: Path) -> None:
    source = preferences(tmp_path / "prefs.parquet", 4)
    rows = pq.read_table(source).to_pylist()
    rows[0]["ranked_images"] = [rows[number]["image"] for number in (1, 2, 3)]
    pq.write_table(pa.Table.from_pylist(rows), source)
    kept = harness("corrupt", str(source), "-o", str(tmp_path / "kept"), *COVER)
    assert "1 of 4 examples already have a list of rejected images" in kept.stderr and "1 from the data" in kept.stdout
    assert fingerprints(tmp_path / "kept") == fingerprints(source)
    replaced = harness("corrupt", str(source), "-o", str(tmp_path / "new"), *COVER, "--replace")
    assert "from the data" not in replaced.stdout.replace("0 from the data", "")
    before, after = (fingerprints(tmp_path / name) for name in ("kept", "new"))
    assert before[0] != after[0] and before[1:] == after[1:]
    shorter = harness("corrupt", str(source), "-o", str(tmp_path / "no"), "--levels", "0.5,1")
    assert shorter.returncode == 2 and "--levels [0.33, 0.67, 1.0]" in shorter.stderr
    none = harness("corrupt", str(source), "-o", str(tmp_path / "no"))
    assert none.returncode == 2 and "lists of rejected images, which a set would lose" in none.stderr
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_one_image_is_no_list(tmp_path: Path) -> None:
    source = preferences(tmp_path / "prefs.parquet", 2)
    assert harness("corrupt", str(source), "-o", str(tmp_path / "single")).returncode == 0
    done = harness("corrupt", str(tmp_path / "single"), "-o", str(tmp_path / "set"), *COVER)
    assert done.returncode == 2 and "one rejected image per example, which a set of lists would lose" in done.stderr
    assert (
        harness("corrupt", str(tmp_path / "single"), "-o", str(tmp_path / "set"), *COVER, "--replace").returncode == 0
    )
    assert fingerprints(tmp_path / "set") == fingerprints(source)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ("0.5,0.25", "the levels must rise from above 0 to at most 1"),
        ("0.5;1", "--levels takes numbers with commas between them, not '0.5;1'"),
        ("", "--levels takes numbers with commas between them"),
        (",".join(str(n / 9) for n in range(1, 10)), "at most 8 levels can be compared, not 9"),
        ("0.9991,1", "are the same diffusion step"),
    ],
)
def test_levels_that_make_no_list_are_refused(levels: str, said: str, tmp_path: Path) -> None:
    source = preferences(tmp_path / "prefs.parquet", 1)
    done = harness("corrupt", str(source), "-o", str(tmp_path / "set"), "--levels", levels)
    assert done.returncode == 2 and said in " ".join(done.stderr.split()), done.stderr
    assert not (tmp_path / "set").exists()


def test_a_sheet_shows_every_image_of_a_list(tmp_path: Path) -> None:
    source = preferences(tmp_path / "prefs.parquet", 3)
    assert harness("corrupt", str(source), "-o", str(tmp_path / "set"), *COVER).returncode == 0
    preview(tmp_path / "set", tmp_path / "sheet.html", 2)
    page = (tmp_path / "sheet.html").read_text()
    assert page.count('<img src="data:image/webp') == 2 * 5 and "levels 0.25, 0.5, 1" in page
    assert "original, corrupted region, rejected image 1, rejected image 2, rejected image 3." in page
    assert preview(tmp_path / "set", tmp_path / "sheet.png", 2) == 2
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 5 * 240 + 6 * 10 + 2 * 10, "one card a row"
