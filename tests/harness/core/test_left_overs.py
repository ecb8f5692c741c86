"""What a killed writer leaves is removed by the next command that writes to the same folder; what a living one writes is not."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core import temporary
from harness.core.files import atomic_folder, atomic_path
from harness.core.temporary import SUFFIX, left_overs
from tests.commands import harness
from tests.scored_runs import make_run

_TEXTS = ["A dog.", "A dog and a cat.", "A cat.", "Two dogs on a bench."]
_SCORE = ["score", "--suite", "halbench", "--annotations", "truth.jsonl", "--responses", "said.jsonl"]
_DIES = """
import fnmatch, os, signal, sys
from harness.core import files
move = files.move
def die(source, target, *, within):
    if fnmatch.fnmatch(target.name, sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    move(source, target, within=within)
files.move = die
from harness.cli import app
from harness.cli.errors import run
sys.exit(run(app, sys.argv[2:]))
"""
"""A harness that is killed when a file of the name in its first argument is written and about to get this name."""
_WRITES = """
import sys
from pathlib import Path
from harness.core.files import atomic_folder, atomic_path
with {how}(Path("target")):
    print("here", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two scored runs, truth and answers; what a user calls like a temporary file lies beside them."""
    make_run(tmp_path / "results", "base-m", _TEXTS)
    make_run(tmp_path / "results", "dpo-m", _TEXTS[::-1])
    (tmp_path / "truth.jsonl").write_text('{"image_id": 1, "instances": ["dog"], "captions": ["A dog."]}\n')
    (tmp_path / "said.jsonl").write_text('{"image_id": 1, "text": "A dog and a cat."}\n')
    (tmp_path / ".report.html.mine1234").write_text("mine")
    return tmp_path


def temporaries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(f"*{SUFFIX}*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("report.html", ["report", "-o", "report.html"]),
        ("*.svg", ["plot", "-o", "plots", "--format", "svg"]),
        ("board.html", ["leaderboard", "--html", "board.html"]),
        ("*.json", ["leaderboard"]),
        ("verdicts.jsonl", [*_SCORE, "--items", "verdicts.jsonl"]),
    ],
)
def test_the_next_command_removes_what_a_killed_one_left(place: Path, target: str, command: list[str]) -> None:
    environment = {**os.environ, "HARNESS_CACHE": str(place / "cache")}
    killed = [sys.executable, "-c", _DIES, target, *command]
    for _ in range(2):
        done = subprocess.run(killed, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == -9, done.stderr
    assert len(temporaries(place)) == 1, "the second one has removed the first one's, and left its own"
    harness(place, *command, HARNESS_CACHE=str(place / "cache"))
    assert not temporaries(place)
    assert (place / ".report.html.mine1234").read_text() == "mine"


@pytest.mark.parametrize("how", ["atomic_path", "atomic_folder"])
def test_a_living_writer_keeps_what_it_writes(tmp_path: Path, how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITES.format(how=how)], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout and other.stdin and other.stdout.readline() == b"here\n"
        with atomic_path(tmp_path / "target.txt") as path:
            path.write_text("x")
        assert left_overs(tmp_path) == [] and len(temporaries(tmp_path)) == 1
        other.kill()
        other.wait()
        assert [path.name for path in left_overs(tmp_path)] == temporaries(tmp_path)


def test_a_folder_that_was_hidden_stays_until_there_is_another_one(tmp_path: Path) -> None:
    """A writer that is killed between hiding the old folder and naming the new one: the old one may be the only copy."""
    hidden = tmp_path / ".target.0123abcd.removed"
    hidden.mkdir()
    assert left_overs(tmp_path) == []
    with atomic_folder(tmp_path / "target") as path:
        (path / "new").write_text("x")
    assert left_overs(tmp_path) == [hidden]


def test_nothing_is_removed_where_the_file_system_knows_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f".target.abcd1234{SUFFIX}").write_text("of somebody who may be alive")
    assert len(left_overs(tmp_path)) == 1

    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with atomic_path(tmp_path / "target") as path:
        path.write_text("x")
    assert left_overs(tmp_path) == [] and len(temporaries(tmp_path)) == 1
    assert (tmp_path / "target").read_text() == "x"


def test_a_name_that_another_process_takes_for_left_over_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment between making a temporary file and locking it."""
    made: list[str] = []
    make = temporary.tempfile.mkstemp

    def swept(*arguments: str, **named: str) -> tuple[int, str]:
        handle, name = make(*arguments, **named)
        made.append(name)
        if len(made) == 1:
            Path(name).unlink()
        return handle, name

    monkeypatch.setattr(temporary.tempfile, "mkstemp", swept)
    with atomic_path(tmp_path / "target") as path:
        path.write_text("x")
    assert len(made) == 2 and [path.name for path in tmp_path.iterdir()] == ["target"]
