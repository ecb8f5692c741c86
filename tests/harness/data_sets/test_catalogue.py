"""The catalogue of data sets: get and check, on a catalogue of our own whose server is here."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.core.errors import HarnessError, UnknownNameError
from harness.datasets.catalogue import DataSet, catalogue, check, find, get, with_needs
from tests import warm
from tests.harness.data_sets.file_server import FileServer, serving

TEXT = b"questions\n"


def packed() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("pictures/1.jpg", b"jpeg")
        archive.writestr("__MACOSX/pictures/._1.jpg", b"junk")
    return stream.getvalue()


@pytest.fixture
def servers() -> Iterator[tuple[FileServer, FileServer]]:
    with serving(TEXT) as one, serving(packed()) as other:
        yield one, other


@pytest.fixture
def data(servers: tuple[FileServer, FileServer]) -> DataSet:
    files, archives = servers
    return DataSet(
        "mine",
        "a title",
        "a paper",
        "a licence",
        "10 B",
        folder="mine",
        files=(
            {"path": "q/known.txt", "url": files.url("good/known.txt"), "sha256": hashlib.sha256(TEXT).hexdigest()},
            {"path": "unknown.txt", "url": files.url("good/unknown.txt")},
        ),
        archives=(
            {
                "url": archives.url("good/images.zip"),
                "unpack": [[r"(?!__MACOSX)(.*/)?[^./][^/]*\.(jpg|png)", "images"]],
                "expect": ["images"],
                "most_bytes": 1000,
            },
        ),
        manual=({"path": "extra", "how": "ask the authors"},),
    )


def states(data: DataSet, root: Path) -> dict[str, str]:
    return {found.path.name: found.state for found in check(data, root)}


def test_get_and_check(data: DataSet, servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    assert set(states(data, tmp_path).values()) == {"missing"}
    fetched = get(data, tmp_path)
    assert {one.path.name: one.state for one in fetched} == {
        "known.txt": "there",
        "unknown.txt": "there",
        "images": "there",
        "extra": "missing",
    }
    assert next(one for one in fetched if one.state == "missing").note == "ask the authors"
    assert [path.name for path in (tmp_path / "mine" / "images").iterdir()] == ["1.jpg"]
    asked = servers[0].asked.total() + servers[1].asked.total()
    get(data, tmp_path)
    assert servers[0].asked.total() + servers[1].asked.total() == asked, "what is there was fetched again"
    # Both kinds of checksum notice a change: the published one, and the one of the day it came.
    for name in ("q/known.txt", "unknown.txt"):
        (tmp_path / "mine" / name).write_text("spoilt")
        wrong = next(one for one in check(data, tmp_path) if one.state == "wrong")
        assert wrong.path == tmp_path / "mine" / name and hashlib.sha256(TEXT).hexdigest() in wrong.note
        (tmp_path / "mine" / name).write_bytes(TEXT)


def test_get_twice_at_once_downloads_and_unpacks_once(
    data: DataSet, servers: tuple[FileServer, FileServer], tmp_path: Path
) -> None:
    """The first one removes an archive that it has unpacked, which the second one must not miss."""
    held = dataclasses.replace(data, archives=({**data.archives[0], "url": servers[1].url("held/images.zip")},))
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(get, held, tmp_path) for _ in range(2)]
        while not servers[1].sent:
            time.sleep(0.01)
        servers[1].go_on.set()
        found = [one.result(60) for one in both]
    assert found[0] == found[1] and {one.state for one in found[0]} == {"there", "missing"}
    assert [servers[0].asked.total(), servers[1].asked.total()] == [2, 1]
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        ".harness-data.json", "images", "q", "unknown.txt"
    ]  # fmt: skip


def test_the_catalogue_itself() -> None:
    known = catalogue()
    assert {
        "halbench",
        "amber",
        "pope",
        "pope-aokvqa",
        "pope-gqa",
        "mmhal",
        "mmstar",
        "mme",
        "hallusionbench",
        "llava-bench",
        "mm-vet",
        "nltk",
        "rlaif-v",
        "rlhf-v",
    } <= set(known)
    for data in known.values():
        assert data.licence and data.source and data.size and (data.hub or data.files or data.archives or data.manual)
        for file in data.files:
            assert file["url"].startswith("https://") and len(file.get("sha256", "0" * 64)) == 64
            assert not Path(file["path"]).is_absolute() and ".." not in Path(file["path"]).parts
    assert [one.name for one in with_needs(["halbench", "pope"])] == [
        "halbench",
        "coco-annotations",
        "pope",
        "coco-val2014",
    ]
    with pytest.raises(UnknownNameError, match="halbench"):
        find("halbnch")


def test_a_wrong_download_is_an_error(data: DataSet, servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    files = ({**data.files[0], "url": servers[0].url("wrong/known.txt")},)
    with pytest.raises(HarnessError, match="not the expected one"):
        get(dataclasses.replace(data, files=files, archives=()), tmp_path)


def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run(["data", *arguments])


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    listed = json.loads(harness("list", "--json").stdout)
    assert {row["here"] for row in listed} == {"no"} and "halbench" in harness("list").stdout
    checked = harness("check", "amber", "--root", str(tmp_path))
    assert checked.returncode == 1 and "relation.json" in checked.stdout and "harness data get amber" in checked.stdout
    assert harness("check", "ambr").returncode == 2 and harness("get").returncode == 2
