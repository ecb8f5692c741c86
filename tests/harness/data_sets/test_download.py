"""Downloads from a server that misbehaves: whole and right, or said what is wrong; never a file that is neither."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.datasets.download import fetch
from tests.harness.data_sets.file_server import FileServer, serving

CONTENT = random.Random(0).randbytes(3_000_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as running:
        yield running


def get(server: FileServer, path: str, folder: Path, sha256: str | None = SHA) -> Path:
    target = folder / "file.bin"
    fetch(server.url(path), target, sha256, timeout_s=0.5, pause_s=0.01)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["good", "cut", "stall", "busy", "no-ranges", "redirect", "wrong-half"])
def test_the_file_comes_whole(server: FileServer, tmp_path: Path, kind: str) -> None:
    assert get(server, f"{kind}/file", tmp_path).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir() if path.name != "file.bin.mismatch"] == ["file.bin"]


def test_it_goes_on_where_it_stopped(server: FileServer, tmp_path: Path) -> None:
    get(server, "cut/file", tmp_path)
    assert len([one for one in server.ranges if one]) == 3
    assert server.sent == len(CONTENT), "bytes that were there came again"


def test_a_changed_file_is_not_made_of_two_halves(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    assert get(server, "good/file", tmp_path).read_bytes() == CONTENT, "a half of unknown origin was used"
    (tmp_path / "file.bin").unlink()
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    (tmp_path / "file.bin.part.json").write_text(f'{{"url": "{server.url("good/file")}", "validator": "\\"old\\""}}')
    assert get(server, "good/file", tmp_path).read_bytes() == CONTENT


def test_wrong_bytes_are_kept_and_named(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=SHA) as caught:
        get(server, "wrong/file", tmp_path)
    assert hashlib.sha256(CONTENT[::-1]).hexdigest() in str(caught.value)
    assert not (tmp_path / "file.bin").exists()
    assert (tmp_path / "file.bin.mismatch").read_bytes() == CONTENT[::-1]
    assert server.asked["/wrong/file"] == 1, "a whole wrong file was fetched again and again"


@pytest.mark.parametrize(
    ("kind", "message"), [("gone", "404"), ("loop", "redirects"), ("elsewhere", "file:///etc/passwd")]
)
def test_what_cannot_come(server: FileServer, tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        get(server, f"{kind}/file", tmp_path)
    assert not (tmp_path / "file.bin").exists() and server.asked[f"/{kind}/file"] <= 7


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="cannot be reached"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file", timeout_s=0.2, pause_s=0.001)


def test_offline_opens_no_socket(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    with pytest.raises(HarnessError, match="HARNESS_OFFLINE"):
        get(server, "good/file", tmp_path)
    assert not server.asked


def test_another_part_than_the_rest_is_not_appended(server: FileServer, tmp_path: Path) -> None:
    assert get(server, "other-part/file", tmp_path, sha256=None).read_bytes() == CONTENT
    assert [bool(one) for one in server.ranges] == [False, True, False, True, False]


def test_bytes_of_another_program_in_the_partial_file_are_noticed(server: FileServer, tmp_path: Path) -> None:
    """A program without our lock, such as an earlier version, that writes into the same partial file."""
    target = tmp_path / "file.bin"
    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(fetch, server.url("held/file"), target, timeout_s=30, pause_s=0.01)
        part = tmp_path / "file.bin.part"
        wait_until(lambda: part.exists() and part.stat().st_size > 1_000_000)
        with part.open("ab") as stream:
            stream.write(b"x" * 2_000_000)
        server.go_on.set()
        assert fetched.result() == SHA
    assert target.read_bytes() == CONTENT and server.asked["/held/file"] == 2


def test_two_processes_download_a_file_once(server: FileServer, tmp_path: Path) -> None:
    """Without a known hash, nothing but the lock keeps a mixture of two downloads from being taken for the file."""
    target, said = tmp_path / "file.bin", tmp_path / "said"
    code = (
        "import logging, sys; from pathlib import Path; from harness.datasets.download import fetch\n"
        "logging.basicConfig(level='INFO'); print(fetch(sys.argv[1], Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, server.url("held/file"), str(target)]
    with said.open("w") as stream:
        first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: server.sent > 1_000_000)
        second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
        wait_until(lambda: "waiting: another process is writing" in said.read_text() or server.asked.total() > 1)
        server.go_on.set()
        outputs = [process.communicate(timeout=60)[0].strip() for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0] and outputs == [SHA, SHA]
    assert target.read_bytes() == CONTENT and server.asked.total() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.bin", "said"]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait at most 30 seconds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.mark.slow
def test_kills_lose_nothing(server: FileServer, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from harness.datasets.download import fetch\n"
        f"fetch(sys.argv[1], Path(sys.argv[2]), {SHA!r}, timeout_s=0.5, pause_s=0.05)"
    )
    command = [sys.executable, "-c", code, server.url("stall/file"), str(tmp_path / "file.bin")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not server.sent and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "file.bin").exists()
    subprocess.run(command, check=True, timeout=60, stderr=subprocess.DEVNULL)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
