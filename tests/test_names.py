"""Names that say nothing of the thing (one, found, own, there) live three lines at most, and name no attribute or function."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EMPTY = frozenset({"one", "found", "own", "there"})
MOST_LINES = 3
PACKAGES = ("harness", "aligners", "benchmarks")
Function = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def empty_names(source: str) -> list[str]:
    """`LINE NAME` of every empty name in a module that lives longer than three lines, or names an attribute, a function or a class."""
    return [f"{line} {name}" for line, name in sorted({*_scope(ast.parse(source).body)})]


def _scope(body: list[ast.stmt], parameters: list[ast.arg] | None = None) -> Iterator[tuple[int, str]]:
    """The empty names that one scope binds or uses, and those of the scopes inside it."""
    lines: dict[str, list[int]] = {}
    for parameter in parameters or ():
        if parameter.arg in EMPTY:
            lines.setdefault(parameter.arg, []).append(parameter.lineno)
    for statement in body:
        yield from _uses(statement, lines)
    for name, places in lines.items():
        if max(places) - min(places) >= MOST_LINES:
            yield min(places), name


def _uses(node: ast.AST, lines: dict[str, list[int]]) -> Iterator[tuple[int, str]]:
    """Note in `lines` where a scope's empty names stand; yield the findings of the scopes inside it."""
    if isinstance(node, ast.Name | ast.alias):
        name = node.id if isinstance(node, ast.Name) else node.asname or node.name
        if name in EMPTY:
            lines.setdefault(name, []).append(node.lineno)
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in EMPTY:
        yield node.lineno, node.attr
    elif isinstance(node, Function):
        if node.name in EMPTY:
            yield node.lineno, node.name
        for outside in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            yield from _uses(outside, lines)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        yield from _scope(node.body, [*arguments, *filter(None, (node.args.vararg, node.args.kwarg))])
        return
    elif isinstance(node, ast.ClassDef):
        yield from _class(node)
        return
    elif isinstance(node, Comprehension):
        yield from _comprehension(node, lines)
        return
    for child in ast.iter_child_nodes(node):
        yield from _uses(child, lines)


def _class(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    """A class's attributes, fields and methods outlive any number of lines."""
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        yield from (
            (target.lineno, target.id) for target in targets if isinstance(target, ast.Name) and target.id in EMPTY
        )
    yield from _scope(node.body)


def _comprehension(node: Comprehension, lines: dict[str, list[int]]) -> Iterator[tuple[int, str]]:
    """A comprehension's own variables live in it; the others are its scope's."""
    bound = {
        name.id
        for generator in node.generators
        for name in ast.walk(generator.target)
        if isinstance(name, ast.Name) and name.id in EMPTY
    }
    if node.end_lineno is not None and node.end_lineno - node.lineno >= MOST_LINES:
        yield from ((node.lineno, name) for name in bound)
    inside: dict[str, list[int]] = {}
    for child in ast.iter_child_nodes(node):
        yield from _uses(child, inside)
    for name in inside.keys() - bound:
        lines.setdefault(name, []).extend(inside[name])


@pytest.mark.slow
@pytest.mark.parametrize("top", [*PACKAGES, "tests"])
def test_no_empty_name_lives_longer_than_three_lines(top: str) -> None:
    modules = sorted((ROOT / top).rglob("*.py"))
    assert modules
    found = {str(path.relative_to(ROOT)): empty_names(path.read_text("utf-8")) for path in modules}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(one):\n    a = 1\n    b = 2\n    return one", ["1 one"]),
        ("def f():\n    found = 1\n    a = 2\n    b = 3\n    return found", ["2 found"]),
        (
            "def f():\n    def inner():\n        there = 1\n        a = 2\n        b = 3\n        return there",
            ["3 there"],
        ),
        ("def f():\n    own = 1\n    a = 2\n    b = 3\n    return [a for _ in own]", ["2 own"]),
        ("values = [\n    one\n    for one in range(3)\n    if one\n]", ["1 one"]),
        ("class C:\n    own: int", ["2 own"]),
        ("class C:\n    def own(self): ...", ["2 own"]),
        ("def there(): ...", ["1 there"]),
        ("def f(self):\n    self.found = 1", ["2 found"]),
        ("def f():\n    found = 1\n    a = 2\n    return found", []),
        ("a = [one for one in range(3)]\n\n\nb = [one for one in range(3)]", []),
    ],
)
def test_the_measure_sees_every_kind_of_name(source: str, names: list[str]) -> None:
    assert empty_names(source) == names


def test_no_class_name_means_two_things() -> None:
    names = Counter(
        node.name
        for top in PACKAGES
        for path in (ROOT / top).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert names and not [name for name, count in names.items() if count > 1]


def test_every_test_file_has_a_name_of_its_own() -> None:
    """pytest collects only one of two files with the same name in folders that are no packages."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]
