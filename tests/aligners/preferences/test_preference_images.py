"""Images stay in their files: memory does not grow with them, and what is opened later is what was checked."""

from __future__ import annotations

import base64
import http.server
import io
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aligners.preferences import read_preferences
from aligners.preferences.cells import CellImage, RowGroups
from harness.core.errors import BadInputError
from harness.core.files import sha256_bytes
from tests.aligners.preferences.test_preference_data import GOOD, jsonl, png, rlaif

_MEASURE = """
import sys
import pyarrow.parquet, PIL.Image, numpy
from pathlib import Path
from aligners.preferences import read_preferences
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
before = peak()
found = read_preferences(sys.argv[1], cache=Path(sys.argv[2]))
read = peak()
for example in found.examples[:: len(found.examples) // 40]:
    example.images["original"].open()
print(len(found.examples), read - before, peak() - before)
"""


def large(number: int, kilobytes: int) -> dict[str, Any]:
    """A record whose image has so many bytes: a small picture, and bytes behind its end that decoders pass over."""
    data = png(number)
    filler = np.random.default_rng(number).bytes(kilobytes * 1024)
    return rlaif(number, image={"bytes": data + filler, "path": f"{number}.png"})


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("rows_in_a_group", [20, 10_000])
def test_memory_does_not_grow_with_the_images(rows_in_a_group: int, tmp_path: Path) -> None:
    """300 MB of images: in row groups of 6 MB, and in one row group as pandas writes it."""
    path = tmp_path / "large.parquet"
    schema = pa.Table.from_pylist([large(0, 1)]).schema
    with pq.ParquetWriter(path, schema, write_batch_size=20) as writer:
        rows = [large(number, 300) for number in range(1000)]
        writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=rows_in_a_group)
    del rows
    assert path.stat().st_size > 290 << 20
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(path), str(tmp_path / "cache")], capture_output=True, text=True, check=True
    )
    count, reading, opening = map(float, done.stdout.split())
    assert count == 1000
    assert max(reading, opening) < 250, f"{reading:.0f} MB while reading, {opening:.0f} MB once images were opened"


def test_an_image_is_opened_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([rlaif(number) for number in range(10)]), path, row_group_size=3)
    data = read_preferences(str(path))
    for number, example in enumerate(data.examples):
        image = example.images["original"]
        assert image.data is None and image.path is None and isinstance(image.source, CellImage)
        assert image.read() == png(number)
        assert image.fingerprint() == sha256_bytes(png(number))
        assert image.name == f"{number}.png"
    again = pickle.loads(pickle.dumps(data.examples[7]))  # as to a worker process
    assert again.images["original"].read() == png(7)


def test_row_groups_used_last_stay_and_others_go(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([large(number, 10) for number in range(12)]), path, row_group_size=3)
    groups = RowGroups(most_bytes=70_000)  # two of the four
    for group in (0, 1, 0, 2):
        groups.column(path, group, "image")
    assert [group for _, group, _ in groups._kept] == [0, 2]
    first = groups.column(path, 0, "image")
    assert groups.column(path, 0, "image") is first


def test_images_in_one_large_row_group_are_copied_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from aligners.preferences import tables

    monkeypatch.setattr(tables, "_GROUP_BYTES", 40_000)
    monkeypatch.setattr(tables, "_PIECE_BYTES", 25_000)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([large(number, 10) for number in range(11)]), path)
    plain = read_preferences(str(path))
    capsys.readouterr()
    data = read_preferences(str(path), cache=tmp_path / "cache")
    assert "copied once" in capsys.readouterr().err
    (copy,) = (tmp_path / "cache" / "preferences").glob("*.parquet")
    assert pq.ParquetFile(copy).metadata.num_row_groups > 4
    assert pq.ParquetFile(copy).schema_arrow.names == ["image"]
    assert data.fingerprint == plain.fingerprint
    assert [one.images["original"].read() for one in data.examples] == [
        one.images["original"].read() for one in plain.examples
    ]
    read_preferences(str(path), cache=tmp_path / "cache")
    assert "copied" not in capsys.readouterr().err


def test_base64_stays_in_its_line(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(picture, "PNG")
    text = base64.b64encode(picture.getvalue()).decode()
    rows = [
        GOOD | {"image": text},
        GOOD | {"image": f"data:image/png;base64,{text}", "prompt": "ü"},
        GOOD | {"image": text},
    ]
    found = read_preferences(jsonl(tmp_path / "d.jsonl", rows))
    for example in found.examples:
        assert example.images["original"].data is None
        assert example.images["original"].read() == picture.getvalue()


def test_a_file_that_changed_after_it_was_checked_is_named(tmp_path: Path) -> None:
    text = base64.b64encode(png() + bytes(9000)).decode()
    path = jsonl(tmp_path / "d.jsonl", [GOOD | {"image": text}])
    (example,) = read_preferences(path).examples
    Path(path).write_text("{}\n")
    with pytest.raises(BadInputError, match="cannot be read again") as error:
        example.images["original"].read()
    assert error.value.where == path


def test_a_file_of_many_records_is_one_image(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    one, other = read_preferences(jsonl(tmp_path / "d.jsonl", [GOOD, GOOD])).examples
    assert one.images["original"] is other.images["original"]


def test_what_decoding_does_is_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    rows = [GOOD | {"image": "moving.gif"}, GOOD | {"image": "moving.gif", "prompt": "q"}, GOOD | {"image": "deep.png"}]
    found = read_preferences(jsonl(tmp_path / "d.jsonl", rows))
    assert found.treated == {"16-bit": 1, "animated": 1}
    heard = " ".join(capsys.readouterr().err.split())
    assert "1 images are reduced to the first of several frames" in heard
    assert "1 images are scaled from 16 to 8 bits per channel" in heard


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder behind HTTP, and the paths that were asked for."""
    asked: list[str] = []
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "x.png").write_bytes(png(3))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, directory=str(folder), **options)

        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


def test_images_by_url_are_fetched_once_and_only_when_that_is_allowed(
    server: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, asked = server
    rows = [GOOD | {"image": f"{url}/x.png"}, GOOD | {"image": f"{url}/x.png", "prompt": "again"}]
    path, cache = jsonl(tmp_path / "d.jsonl", rows), tmp_path / "cache"
    with pytest.raises(BadInputError, match="--allow-download"):
        read_preferences(path, cache=cache)
    assert asked == []
    data = read_preferences(path, cache=cache, allow_download=True)
    assert [one.images["original"].read() for one in data.examples] == [png(3), png(3)]
    assert asked == ["/x.png"]
    assert read_preferences(path, cache=cache).fingerprint == data.fingerprint  # from the cache, with nothing allowed
    assert asked == ["/x.png"]
    gone = jsonl(tmp_path / "gone.jsonl", [rows[0], GOOD | {"image": f"{url}/gone.png"}])
    with pytest.raises(BadInputError, match="could not be downloaded: the server answers 404"):
        read_preferences(gone, cache=cache, allow_download=True)


def test_a_long_answer_to_a_url_is_cut_short(
    server: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aligners.preferences import pictures

    monkeypatch.setattr(pictures, "MOST_BYTES", 100)
    path = jsonl(tmp_path / "d.jsonl", [GOOD | {"image": f"{server[0]}/x.png"}])
    with pytest.raises(BadInputError, match="more than 100 bytes"):
        read_preferences(path, cache=tmp_path / "cache", allow_download=True)
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([GOOD])[:-1])
    with pytest.raises(BadInputError, match="not valid JSON"):
        read_preferences(str(path))
    path.write_text("{}")
    with pytest.raises(BadInputError, match="not a JSON array"):
        read_preferences(str(path))
    path.write_text("[1]")
    with pytest.raises(BadInputError, match="the record is not a JSON object"):
        read_preferences(str(path))
