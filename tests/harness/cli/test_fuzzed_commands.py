"""Malformed command lines of every command: refused in one short paragraph, and nothing outside the folder is touched.

A line is how its command is run once (tests/command_cases.py), after accidents. 8 lines a command, the same ones every time;
`-m exhaustive` draws 80 of each, others every time.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.command_cases import COMMANDS, fill
from tests.commands import leaves, parameters, run_bounded

ODD = st.sampled_from(
    ["", " ", "-", "--", "-1", "0", "00", "1.5", "1e3", "1e999", "nan", "-inf", "0x10", "1_0", "\u0663", "9" * 5000, "-" + "9" * 400,
     "4294967296", "9223372036854775808", "1e-400", "true", "None", "[]", "{}", "a=b", "=", "=x", "x=", "a=b=c", ",", ",,", "one,,other",
     "1/2", "0/2", "3/2", "1/0", "-1/2", "1/" + "9" * 5000, "1,", "1,x", "nan,nan", "-1,-1", "1e999,1", ".", "..", "../..", "../../none",
     "./", "~", "~nobody", "/dev/null", "/dev/full", "/proc/self/none", "none/none", "none.jsonl", "x" * 300, "x" * 5000, "a/" * 3000,
     "\x1b[31mRED\x1b]0;pwn\x07", "\r\n", "\t", "\x7f", "\x9b31m", "\udcff", "\ud800", "\u202e", "\ufeff", "\u2028", "\U0001f984", "é",
     "\u0065\u0301", "CON", "a b", "a\nb", "*", "[/]", "[bold]x", "%s", "{0}", "$HOME", "`id`", "; id", "@file", "--help", "--results",
     "-x", "http://", "http://[", "http://127.0.0.1:9/v1", "file:///etc/passwd", "https://u:p@h:99999/", "pocket:",
     "pocket:x", "pocket:0@", "pocket:0@none", "pocket:-1", "official", "spacy:", "spacy:none", "table:", "table:none", "judge.model=",
     "judge.votes=nan", "train.=1", "train.seed=-1", ".=.", "backend.x=1", "sampling.max_new_tokens=-1", "halbench.matched_words=x",
     "127.0.0.1:x", ":", "localhost:" + "9" * 400, "one@", "@data", "pope@data"]
)  # fmt: skip
REAL = st.sampled_from(
    ["one", "other", "scored", "data", "prefs", "prefs/rlaif-v.parquet", "p.png", "one.yaml", "questions.jsonl", "answers.jsonl",
     "empty", "loop", "pope", "halbench", "amber", "mmhal", "chair", "pope,pope", "pope,mmhal", "dpo", "mfpo", "dpo,dpo", "openai",
     "transformers", "pocket-truth", "nltk", "spacy", "1", "2", "1/2", "blur", "json", "svg", "test", "validation"]
)  # fmt: skip
"""What there is, in the wrong place."""
VALUES = ODD | ODD | REAL | st.text(st.characters(), max_size=12)
NEVER = ["none.jsonl", "", "..", "\x1b[2J", "x" * 5000, "/dev/null", "p.png", "empty", "\udcff", "loop", "9" * 5000]
STOPS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "align": ((), "--data"),
    "launch": (("--print",), None),
    "eval": (("--dry-run",), None),
    "rejudge": (("--dry-run",), None),
    "experiment": (("--dry-run",), None),
    "quickstart": ((), "--methods"),
    "push": (("--dry-run",), None),
    "data corrupt": ((), "--corruption"),
    "doctor": (("none",), None),
    "view": (("none",), None),
    "data generate": ((), "--judge"),
    "data get": (("none",), None),
}
"""Of commands that would work for minutes if a line were sound: what keeps them from it, in front or as a last option."""


@st.composite
def lines(draw: st.DrawFn, name: str, known: list[Any]) -> list[str]:
    """A command's line after one to four accidents."""
    line = list(COMMANDS[name].arguments)
    for _ in range(draw(st.integers(1, 4))):
        accident = draw(
            st.sampled_from(["value", "value", "option", "option", "option", "drop", "repeat", "both", "insert"])
        )
        places = [place for place, word in enumerate(line) if not word.startswith("-")]
        options = [one for one in known if one.opts[0].startswith("-")]
        if accident == "value" and places:
            line[draw(st.sampled_from(places))] = draw(VALUES)
        elif accident == "option" and options:
            option = draw(st.sampled_from(options))
            word = draw(st.sampled_from([*option.opts, *option.secondary_opts]))
            value = draw(VALUES)
            kept = [word] if option.is_flag else [word, value]
            line += draw(st.sampled_from([kept, kept, kept, kept, [f"{word}={value}"], [word]]))
        elif accident == "drop" and line:
            del line[draw(st.integers(0, len(line) - 1))]
        elif accident == "repeat" and line:
            place = draw(st.integers(0, len(line) - 1))
            line += line[place : place + 2]
        elif accident == "both":
            line += [one.opts[0] for one in options if one.is_flag][: draw(st.integers(1, 9))]
        elif accident == "insert":
            line.insert(draw(st.integers(0, len(line))), draw(VALUES))
    first, last = STOPS.get(name, ((), None))
    return [*name.split(), *first, *line, *([last, draw(st.sampled_from(NEVER))] if last else [])]


_PATHS = {"os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.truncate": 1, "os.chmod": 1,
          "os.chown": 1, "shutil.rmtree": 1}  # fmt: skip
"""What changes a file system, as Python's audit events name it, with the number of paths in front."""


class _Guard:
    """Lets nothing be written outside some folders, and remembers what was tried. It sees what Python opens, moves and removes."""

    def __init__(self) -> None:
        self.folders: tuple[Path, ...] = ()
        self.tried: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folders:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) or set(mode or "") & set("wax+")
            paths = [path] if writes and not isinstance(path, int) and os.fsdecode(path) != os.devnull else []
        elif event in ("os.exec", "os.system"):
            self._stop(event, arguments)
            return
        else:
            paths = list(arguments[: _PATHS.get(event, 0)])
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                self._look(event, os.fsdecode(path))

    def _look(self, event: str, path: str) -> None:
        if Path(path).name.startswith("torchinductor_"):
            return  # torch's own folder for temporary files, which it makes when it is imported
        real = Path(os.path.realpath(os.path.dirname(os.path.abspath(path))))  # noqa: PTH100, PTH120 (any text at all)
        if "__pycache__" not in real.parts and not any(real.is_relative_to(folder) for folder in self.folders):
            self._stop(event, path)

    def _stop(self, event: str, what: object) -> None:
        self.tried.append(f"{event} {what!r:.300}")
        raise PermissionError(13, f"the test's guard: {event}", str(what)[:300])


@pytest.fixture(scope="module")
def guard() -> _Guard:
    made = _Guard()
    sys.addaudithook(made)
    return made


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands take; links are followed by nobody who writes."""
    folder = tmp_path_factory.mktemp("pristine") / "work"
    folder.mkdir()
    fill(folder)
    for name in ("benchmarks", "aligners"):  # this process has imported ours
        shutil.rmtree(folder / name)
    shutil.copytree(folder / "scored", folder / "results")
    (folder / "empty").mkdir()
    (folder / "loop").symlink_to("loop")
    return folder


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (choices.st_size, choices.st_mtime_ns)
        for path in folder.rglob("*")
        for choices in [path.lstat()]
        if not path.is_dir()
    } | {str(path): (0, 0) for path in folder.rglob("*") if path.is_dir()}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder deep in the test's own; temporary files and the cache lie there, too; no key, no hub."""
    for variable in ("OPENAI_API_KEY", "HARNESS_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir()
    yield tmp_path / "a" / "b" / "work"


@pytest.mark.slow
@pytest.mark.parametrize("examples", [8, pytest.param(80, marks=[pytest.mark.exhaustive, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("name", [" ".join(path) for path, _ in leaves()])
def test_a_malformed_line(name: str, examples: int, pristine: Path, places: Path, guard: _Guard) -> None:
    [command] = [command for path, command in leaves() if " ".join(path) == name]
    root = places.parents[2]

    @settings(
        max_examples=examples,
        derandomize=examples == 8,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(line=lines(name, parameters(command)))
    def check(line: list[str]) -> None:
        if not places.exists():
            shutil.copytree(pristine, places, symlinks=True)
        before = _state(root / "a")
        guard.tried, guard.folders = [], (root,)
        try:
            code, _, said = run_bounded(line, places)
        finally:
            guard.folders = ()
        assert not guard.tried, (line, guard.tried)
        assert said.count("error: ") <= 1 and "\n\n" not in said.strip(), said
        after = _state(root / "a")
        assert code == 0 or after == before, f"{line} was refused and left {set(after) ^ set(before)}"
        if after != before:
            shutil.rmtree(root / "a")

    check()
