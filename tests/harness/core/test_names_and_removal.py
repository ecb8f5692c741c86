"""Names stay one part of a path; things are removed in one place, and only inside the folder that the caller owns."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import BadInputError, HarnessError
from harness.core.names import LONGEST, check_name, name_from
from harness.core.removal import discard, move, put_aside, remove, swap

ROOT = Path(__file__).resolve().parents[3]
REMOVAL = ROOT / "harness" / "core" / "removal.py"
RAW = {"rmtree", "unlink", "rmdir", "remove", "removedirs", "rename", "renames"}
"""Calls that remove a file or folder, or move it over another one."""

CALLERS = {
    "aligners/rejected_images/image_set.py": "parts, manifests and left-overs of its own set",
    "aligners/training/run.py": "log, stages and checkpoints of its own run",
    "aligners/training/checkpoint.py": "checkpoints of a stage that is finished",
    "benchmarks/coco.py": "an index of the cache that cannot be read",
    "harness/datasets/catalogue.py": "an archive that was unpacked",
    "harness/datasets/importing.py": "a file under its temporary name",
    "harness/datasets/unfinished.py": "its own mark",
    "harness/datasets/download.py": "half files",
    "harness/datasets/unpack.py": "its own temporary folder",
    "harness/core/library_log.py": "the oldest logs of other libraries",
    "harness/core/files.py": "temporary files and folders; what an atomic write replaces",
    "harness/core/temporary.py": "temporary files and folders that no writer holds any more",
    "harness/evaluation/imports.py": "its own temporary folder; an imported run's answers, which new ones replace",
    "harness/worlds/pocket/ship.py": "the shipped base model, which a new one replaces",
    "harness/generation/work.py": "pairs and manifests of its own set, which new ones replace",
    "harness/models/saving.py": "PEFT's empty card in the folder that is being written",
    "harness/runs/set_aside.py": "puts answers and their scores aside that are to be generated again",
    "harness/alignment/align.py": "what stages kept for --resume, of a run that is complete",
    "harness/runs/claim.py": "what an attempt left that made no step; puts aside what is replaced",
    "harness/runs/housekeeping.py": "what `harness runs --prune` was asked to remove; changes places for --restore",
    "harness/checkpoints/export.py": "a folder inside the export",
    "harness/core/locks.py": "a lock's file that is not to stay",
    "harness/serving/vllm_process.py": "the engine's log",
}
"""Who removes what. A new caller is looked at, and then named here."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in ("harness", "aligners", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path != REMOVAL:
                yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Every call with the name that is called and the name before its dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                before = node.func.value.id if isinstance(node.func.value, ast.Name) else "?"
                yield node, node.func.attr, before
            elif isinstance(node.func, ast.Name):
                yield node, node.func.id, ""


def test_nothing_is_removed_or_moved_outside_the_module_for_it() -> None:
    wrong = []
    for name, tree in sources():
        for node, called, before in calls(tree):
            raw = called in RAW and before != "" and (called != "remove" or before == "os")  # lists have a remove, too
            # str.replace takes two arguments, a path's takes one.
            moved = called == "replace" and len(node.args) == 1 and not node.keywords and before != "dataclasses"
            moved = moved or (called in ("move", "replace") and before in ("shutil", "os"))
            if raw or moved:
                wrong.append(f"{name}:{node.lineno}: {before}.{called}")
    assert not wrong, "use harness.core.removal: " + ", ".join(wrong)


def test_every_caller_names_the_folder_it_owns_and_is_known() -> None:
    functions = {"remove", "discard", "move", "swap", "put_aside"}
    callers = set()
    for name, tree in sources():
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "harness.core.removal"
            for alias in node.names
        }
        for node, called, before in calls(tree):
            if before == "" and called in imported & functions:
                assert any(keyword.arg == "within" for keyword in node.keywords), f"{name}:{node.lineno}"
                callers.add(name)
    assert callers == set(CALLERS)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of ours with something in it, and something beside it that is not ours."""
    (tmp_path / "ours" / "old" / "deep").mkdir(parents=True)
    (tmp_path / "ours" / "old" / "deep" / "file").write_text("1")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("2")
    return tmp_path / "ours"


@pytest.mark.parametrize("path", [".", "..", "../precious", "old/..", "old/../..", "link/file", "/", ""])
def test_what_is_not_inside_is_not_touched(place: Path, path: str) -> None:
    (place / "link").symlink_to(place.parent / "precious")
    for act in (
        lambda: remove(place / path, within=place),
        lambda: discard(place / path, within=place),
        lambda: put_aside(place / path, within=place),
        lambda: move(place / path, place / "new", within=place),
        lambda: move(place / "old", place / path, within=place),
        lambda: swap(place / "old", place / path, within=place),
    ):
        with pytest.raises(HarnessError):
            act()
    assert (place.parent / "precious" / "file").read_text() == "2" and (place / "old" / "deep" / "file").exists()


def test_a_link_is_removed_and_not_what_it_leads_to(place: Path) -> None:
    (place / "link").symlink_to(place.parent / "precious")
    remove(place / "link", within=place)
    assert not (place / "link").exists() and (place.parent / "precious" / "file").exists()
    (place / "old" / "link").symlink_to(place.parent / "precious")
    remove(place / "old", within=place)
    assert list(place.iterdir()) == [] and (place.parent / "precious" / "file").exists()


def test_what_is_put_aside_keeps_its_content_each_time(place: Path) -> None:
    kept = put_aside(place / "old", within=place)
    assert (kept / "deep" / "file").read_text() == "1" and kept.parent == place / ".replaced"
    (place / "old").mkdir()
    assert put_aside(place / "old", within=place) != kept


def test_a_swap_that_fails_leaves_the_old_folder(place: Path) -> None:
    with pytest.raises(OSError):
        swap(place / "absent", place / "old", within=place)
    assert (place / "old" / "deep" / "file").read_text() == "1" and [path.name for path in place.iterdir()] == ["old"]


@pytest.mark.parametrize(
    "name",
    [".", "..", "../outside", "a/b", "", "-x", ".x", "a b", "a\nb", "a\x00b", "größe", "x" * (LONGEST + 1), "a\\b"],
)
def test_names_that_are_no_part_of_a_path_are_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="letters"):
        check_name(name, "the name")


@given(st.text(max_size=400))
def test_any_text_gives_a_name(text: str) -> None:
    name = name_from(text)
    assert check_name(name, "it") == name == name_from(text)
    if text == name:
        assert check_name(text, "it")


def test_names_stay_what_they_are_and_models_keep_the_folders_they_had() -> None:
    assert [name_from(one) for one in ("dpo-1", "pocket:1", "Qwen/Qwen2-VL", "gpt-4o")] == [
        "dpo-1", "pocket-1", "Qwen-Qwen2-VL", "gpt-4o",
    ]  # fmt: skip
    assert len({name_from("模型一"), name_from("模型二"), name_from("..")}) == 3
