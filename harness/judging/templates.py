"""Reading judge prompts from official scripts: the script is parsed, never run."""

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
        BadInputError: the file does not exist, is not text, or has no such string.
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
    """Fill fields into a template, by name (`{question}`) or, for a template with bare `{}`, in the order of `fields`.

    This is plain replacement: a field's text may contain braces, even another field's name.

    Raises:
        BadInputError: the template has no placeholder for a field, or not as many `{}` as fields.
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


def read_built_prompt(path: Path, function: str, variable: str = "prompt") -> tuple[str, str]:
    """A template, and its SHA-256, from a function that builds a prompt as `prompt = "..."; prompt += record["question"]; ...`.

    The parts that are not literal become placeholders: `record["question"]` is {question}, `record[name]` and `name` are {name}.

    Raises:
        BadInputError: no such file or function, or the prompt is built in another way.
    """
    source = read_text(path, "judge's template")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInputError(f"this is not a valid Python file: {error}", where=str(path)) from None
    builder = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function), None)
    parts: list[tuple[int, str]] = []
    for node in ast.walk(builder) if builder else ():
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        )
        if [getattr(target, "id", None) for target in targets] == [variable]:
            assert isinstance(node, ast.Assign | ast.AugAssign)
            parts.append((node.lineno, _part(node.value)))
    text = "".join(part for _, part in sorted(parts))
    if not text or "\0" in text:
        raise BadInputError(
            f"the function '{function}' of this file does not build a prompt from parts", where=str(path)
        )
    return text, sha256_bytes(text.encode("utf-8"))


def _part(value: ast.expr) -> str:
    """A literal as it is, another value as a placeholder; a null character where it is neither."""
    key = value.slice if isinstance(value, ast.Subscript) else value
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        return key.value if key is value else f"{{{key.value}}}"
    return f"{{{key.id}}}" if isinstance(key, ast.Name) else "\0"
