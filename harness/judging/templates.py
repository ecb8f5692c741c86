"""Judge prompts that are read from an official script as data: the script is parsed, never run."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

from harness.core.errors import BadInputError
from harness.core.files import sha256_bytes
from harness.core.reading import read_text


def read_template(path: Path, variable: str = "template") -> tuple[str, str]:
    """A template and its SHA-256: the text of a file, or, of a Python file, the string that is assigned to `variable`.

    Raises:
        BadInputError: no such file, not text, or no such string in it.
    """
    text = read_text(path, "judge's template")
    if path.suffix == ".py":
        text = _assigned(text, variable, path)
    return text, sha256_bytes(text.encode("utf-8"))


def _assigned(source: str, variable: str, path: Path) -> str:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInputError(f"this is not a valid Python file: {error}", where=str(path)) from None
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(one, "id", None) for one in node.targets] == [variable]:
            value = node.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                return value.value
    raise BadInputError(f"no string is assigned to '{variable}' at the top level of this file", where=str(path))


def fill(template: str, fields: Mapping[str, str]) -> str:
    """Put fields into a template, by name (`{question}`) or, in one with bare `{}`, in the order of `fields`.

    Nothing is formatted: a field's text may hold braces, even another field's name.

    Raises:
        BadInputError: the template has no place for a field, or another number of `{}` than there are fields.
    """
    bare = template.count("{}")
    if bare:
        if bare != len(fields):
            raise BadInputError(f"the template has {bare} placeholders for {len(fields)} fields: {', '.join(fields)}")
        parts = template.split("{}")
        return "".join(part + text for part, text in zip(parts, [*fields.values(), ""], strict=True))
    pattern = "|".join(map(re.escape, fields))
    parts = re.split(rf"\{{({pattern})\}}", template)
    if len(parts) == 1:
        raise BadInputError(f"the template has no placeholder for any of the fields {', '.join(fields)}")
    return "".join(fields[part] if place % 2 else part for place, part in enumerate(parts))
