"""Modules and functions stay small enough to be read at once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for top in ("harness", "aligners", "benchmarks") for path in (ROOT / top).rglob("*.py"))


def code_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature and docstring: a command's signature has a line an option."""
    first = function.body[1:2] if ast.get_docstring(function) else function.body[:1]
    return (function.end_lineno or 0) - first[0].lineno + 1 if first else 0


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert not {path: length for path, length in lengths.items() if length > 400}


@pytest.mark.parametrize("top", ["harness", "aligners", "benchmarks"])
def test_no_function_is_longer_than_60_lines(top: str) -> None:
    functions = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": code_of(node)
        for path in MODULES
        if path.is_relative_to(ROOT / top)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert functions and not {name: length for name, length in functions.items() if length > 60}
