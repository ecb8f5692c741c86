"""Archives from elsewhere: what is wanted comes out, and nothing else happens."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.datasets.unpack import unpack

WANTED = [(r".*\.txt", "texts")]


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, members: dict[str, bytes], link: str | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo("link.txt")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return path


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_what_is_wanted_comes_out(tmp_path: Path, make: Callable[[Path, dict[str, bytes]], Path]) -> None:
    archive = make(tmp_path / "a", {"deep/one.txt": b"1", "two.txt": b"22", "three.bin": b"333"})
    found = unpack(archive, tmp_path / "out", WANTED, 100)
    assert [path.name for path in found] == ["one.txt", "two.txt"]
    assert everything(tmp_path / "out") == ["texts/one.txt", "texts/two.txt"]
    assert (tmp_path / "out" / "texts" / "two.txt").read_bytes() == b"22"


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "C:\\out.txt", "..\\out.txt"])
def test_no_path_leads_outside(tmp_path: Path, name: str) -> None:
    for archive in (
        make_zip(tmp_path / "a.zip", {"good.txt": b"1", name: b"2"}),
        make_tar(tmp_path / "a.tar", {"good.txt": b"1", name: b"2"}),
    ):
        with pytest.raises(HarnessError, match="outside"):
            unpack(archive, tmp_path / "out", WANTED, 100)
        assert everything(tmp_path / "out") == [], "a part of a refused archive was kept"


def test_no_links(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="link"):
        unpack(make_tar(tmp_path / "a.tar", {"good.txt": b"1"}, link="/etc/passwd"), tmp_path / "out", WANTED, 100)
    info = zipfile.ZipInfo("link.txt")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(HarnessError, match="link"):
        unpack(tmp_path / "b.zip", tmp_path / "out", WANTED, 100)
    assert everything(tmp_path / "out") == []


def test_no_more_bytes_than_expected(tmp_path: Path) -> None:
    bomb = make_zip(tmp_path / "bomb.zip", {"zeros.txt": bytes(5_000_000)})
    assert bomb.stat().st_size < 10_000
    with pytest.raises(HarnessError, match="more than 1,000,000 bytes"):
        unpack(bomb, tmp_path / "out", WANTED, 1_000_000)
    # One that states a small size: the stated size is patched in the central directory and in the local header.
    data = bomb.read_bytes().replace((5_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "liar.zip").write_bytes(data)
    with pytest.raises(HarnessError, match=r"more than|cannot be unpacked"):
        unpack(tmp_path / "liar.zip", tmp_path / "out", WANTED, 1_000_000)
    assert everything(tmp_path / "out") == []


def test_broken_archives(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("a proxy's page")
    with pytest.raises(HarnessError, match="neither a zip nor a tar"):
        unpack(tmp_path / "text.zip", tmp_path / "out", WANTED, 100)
    whole = make_zip(tmp_path / "a.zip", {"one.txt": bytes(range(256)) * 40})
    data = bytearray(whole.read_bytes())
    data[60] ^= 0xFF
    whole.write_bytes(data)
    with pytest.raises(HarnessError, match="cannot be unpacked"):
        unpack(whole, tmp_path / "out", WANTED, 100_000)
    with pytest.raises(HarnessError, match="two files"):
        unpack(make_zip(tmp_path / "b.zip", {"a/x.txt": b"1", "b/x.txt": b"2"}), tmp_path / "out", WANTED, 100)
    with pytest.raises(HarnessError, match="none of the expected"):
        unpack(make_zip(tmp_path / "c.zip", {"a.bin": b"1"}), tmp_path / "out", WANTED, 100)
    assert everything(tmp_path / "out") == []
