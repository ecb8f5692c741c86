"""Damaged run folders, in the commands that read all of them: what is damaged is named with the reason, the rest is shown.

2,000 damages, three at a time (a file of each run), the same ones every time; `-m exhaustive` draws twenty times as many, and others.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.commands import run_bounded
from tests.conftest import CONFORMANCE
from tests.harness.cli.test_fuzzed_inputs import VALUES, fuzzed, spoiled
from tests.scored_suites import make_runs

CASES = CONFORMANCE.parent / "cases" / "bad-inputs"
NAMES = ("base-pocket", "dpo-pocket", "mfpo-pocket")
READERS = ("leaderboard", "compare", "report", "plot")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `results/`, as a quickstart leaves them."""
    folder = tmp_path_factory.mktemp("damaged")
    make_runs(folder / "results", NAMES, most=12, data="pocket-test", judge="pocket-truth")
    code, out, err = run_bounded(["leaderboard", "--json"], folder)
    assert code == 0 and not err and len(json.loads(out)[0]["rows"]) == 3 and not json.loads(out)[0]["left_out"]
    return folder


@contextlib.contextmanager
def restored(path: Path) -> Iterator[None]:
    """Whatever becomes of a file or folder, afterwards it is what it was."""
    content = path.read_bytes()
    try:
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(content)


def cases() -> list[Any]:
    """The cases of commands that need no model: their file and how it was spoiled."""
    damaged = []
    for folder in sorted(CASES.glob("runs-*")):
        case = json.loads((folder / "case.json").read_text())
        if case["args"][0] in READERS:
            damaged.append(pytest.param(folder, case, id=folder.name))
    absent = pytest.mark.skip(reason="the cases are not there: shared/cases/bad-inputs beside the checkout")
    return damaged or [pytest.param(CASES, {}, marks=absent)]


@pytest.mark.parametrize(("folder", "case"), cases())
def test_the_damaged_part_is_named_and_the_rest_is_shown(folder: Path, case: dict[str, Any], sound: Path) -> None:
    name, _, how = case["how"].partition(": ")
    path = sound / (name if "/" in name else name.removeprefix("delete "))
    assert path.is_file(), "the sound file has this name"
    with restored(path):
        if how in ("dir", "todir"):
            path.unlink()
            path.mkdir()
        elif how == "deep":
            path.write_text("[" * 100_000)
        else:
            shutil.copy(folder / path.name, path)
        code, out, err = run_bounded(case["args"], sound)
        run_name = Path(name).parts[1]
        assert code == 0
        if case["args"][0] == "leaderboard":
            assert all(other in out for other in NAMES if other != run_name)
        assert run_name in err + out and path.name.partition(".")[0] in err + out
        if path.name == "manifest.json":
            assert f"note: {run_name}: the manifest" in err


def test_one_damaged_manifest_leaves_the_other_runs(sound: Path) -> None:
    path = sound / "results" / "dpo-pocket" / "manifest.json"
    good = json.loads(path.read_text())
    for text in (
        "",
        "[]",
        "nope",
        "{}",
        "9" * 5000,
        "[" * 3000,
        json.dumps(good | {"base": "m"}),
        json.dumps(good | {"finished": 3}),
    ):
        with restored(path):
            path.write_text(text)
            code, out, err = run_bounded(["leaderboard", "--csv"], sound)
            assert (
                code == 0
                and "mfpo-pocket" in out
                and "dpo-pocket" not in out
                and "note: dpo-pocket: the manifest" in err
            )
            code, _, err = run_bounded(["report", "-o", "r.html"], sound)
            assert code == 0 and "left out: dpo-pocket: the manifest" in err
            assert run_bounded(["compare", "base-pocket", "mfpo-pocket", "--json"], sound)[0] == 0
            code, _, err = run_bounded(["compare", "base-pocket", "dpo-pocket"], sound)
            assert code == 2 and "manifest.json" in err
            for arguments in (
                ["export", "dpo-pocket", "-o", "x"],
                ["push", "dpo-pocket", "a/b"],
                ["eval", "--suite", "pope", "--run", "dpo-pocket"],
            ):
                assert run_bounded(arguments, sound)[0] == 2
            from harness import load_runs

            frames = load_runs(results=sound / "results")
            assert (
                set(frames.metrics["run"]) == {"base-pocket", "mfpo-pocket"}
                and "dpo-pocket: the manifest" in frames.left_out[0]
            )


FILES = ("manifest.json", "evals/halbench@pocket-test/scores-spacy.json", "evals/halbench@pocket-test/items-spacy.jsonl",
         "evals/amber@pocket-test/scores-spacy+exact.json", "evals/amber@pocket-test/items-spacy+exact.jsonl",
         "evals/pope@pocket-test/scores.json", "evals/pope@pocket-test/items.jsonl",
         "evals/mmhal@pocket-test/scores-pocket-truth.json", "evals/mmhal@pocket-test/items-pocket-truth.jsonl")  # fmt: skip
NUMBERS = st.sampled_from([float("nan"), float("inf"), 1e308, -5, 10**30, 0, 1, 0.5, 2, "0.5", True, None, [], {}])


def damaged(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one part of it lost or another."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        rest = {name: one for name, one in value.items() if name != key}
        return rest if draw(st.integers(0, 5)) == 0 else {**value, key: damaged(draw, value[key])}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], damaged(draw, value[place]), *value[place + 1 :]]
    return draw(NUMBERS | VALUES)


def damage(path: Path, kind: int, data: Any) -> None:
    """Damage a file: mostly one value in it, sometimes its bytes, sometimes what it is."""
    if kind == 0:
        path.unlink()
        path.mkdir()
    elif kind == 1:
        path.write_bytes(spoiled(data.draw, path.read_bytes()))
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        place = data.draw(st.integers(0, len(lines) - 1))
        lines[place] = json.dumps(damaged(data.draw, json.loads(lines[place])))
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(json.dumps(damaged(data.draw, json.loads(path.read_text()))))


def after_damage(data: Any, arguments: list[str]) -> None:
    """Damage a file of each run, run a command, and look at how it ends."""
    sound = folder_of_damages()
    with contextlib.ExitStack() as stack:
        for name in NAMES:
            path = sound / "results" / name / data.draw(st.sampled_from(FILES))
            stack.enter_context(restored(path))
            damage(path, data.draw(st.integers(0, 19)), data)
        run_bounded(arguments, sound)


@functools.cache
def folder_of_damages() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="damages-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_runs(folder / "results", NAMES, most=6, data="pocket-test", judge="pocket-truth")
    return folder


@pytest.mark.slow
@fuzzed(150, data=st.data())
def test_leaderboard_as_json(data: Any) -> None:
    after_damage(data, ["leaderboard", "--json"])


@pytest.mark.slow
@fuzzed(
    200,
    data=st.data(),
    how=st.sampled_from(["--csv", "--latex", "--markdown", "--delta", "--sort=chair_s", "--pool=seeds"]),
)
def test_leaderboard_in_other_ways(data: Any, how: str) -> None:
    after_damage(data, ["leaderboard", how])


@pytest.mark.slow
@fuzzed(80, data=st.data(), how=st.sampled_from(["--json", "--all"]))
def test_compare(data: Any, how: str) -> None:
    after_damage(data, ["compare", "base-pocket", "dpo-pocket", "--suite", "halbench,pope,mmhal", how])


@pytest.mark.slow
@fuzzed(40, data=st.data())
def test_report(data: Any) -> None:
    after_damage(data, ["report", "-o", "r.html", "--samples", "5"])


@pytest.mark.slow
@fuzzed(6, data=st.data())
def test_plot(data: Any) -> None:
    after_damage(data, ["plot", "--format", "svg"])
