"""What tests claim, read from their files without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def claims() -> dict[str, set[Path]]:
    """What is claimed -> the files with a test that claims it.

    Raises:
        ValueError: a claim that is no literal text, or one of a test that is left out unless asked for.
    """
    claimed: dict[str, set[Path]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for name in _in_file(path):
            claimed.setdefault(name, set()).add(path)
    return claimed


def _in_file(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    if "claims(" not in text:
        return
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "claims"):
            continue
        for argument in node.args:
            if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                raise ValueError(f"{path}:{node.lineno}: a claim is a text, written out")
            yield argument.value
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)):
        marks = {
            one.attr for mark in function.decorator_list for one in ast.walk(mark) if isinstance(one, ast.Attribute)
        }
        if {"claims", "exhaustive"} <= marks and not isinstance(function, ast.ClassDef):
            whole = [
                mark
                for mark in function.decorator_list
                if isinstance(mark, ast.Attribute) and mark.attr == "exhaustive"
            ]
            if whole:
                raise ValueError(
                    f"{path}:{function.lineno}: {function.name} is left out unless asked for, and claims something"
                )
