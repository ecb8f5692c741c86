"""YAML for settings: recipes and the values of `--set`, read with YAML 1.2's core types.

PyYAML reads YAML 1.1, in which `010` is 8, `1:30` is 90, `2020-02-30` an error, `no` is false and `1e-5` a text. Here these are 10,
a text, a text, a text (which a boolean setting accepts), and a number. What no setting needs is refused: tags (which name
Python objects), anchors and aliases (a few lines of which can expand to billions of values), merge keys, duplicate keys, keys that are
not texts, NaN and infinity.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from harness.core.errors import BadInputError, shown
from harness.core.reading import MOST_NESTED, read_text

MOST_CHARACTERS = 1 << 20
"""Maximum length of a file of settings; the reader is slow."""
_MOST_DIGITS = 40
_NULL = re.compile(r"~|null|Null|NULL|")
_FLAG = re.compile(r"true|True|TRUE|false|False|FALSE")
_WHOLE = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.?(inf|infinity)|\.?nan", re.IGNORECASE)


class _RefusedError(yaml.MarkedYAMLError):
    """Valid YAML that is not read."""


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner and parser with our own constructor, which makes only objects, lists, texts, numbers, true, false and null."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """PyYAML's method, without aliases, anchors and tags, and with limited depth."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            self.refuse("anchors and aliases (& and *) are not supported", event)
        if getattr(event, "tag", None) is not None:
            self.refuse(f"tags are not supported: {shown(event.tag)}", event)
        self.depth += 1
        if self.depth > MOST_NESTED:
            self.refuse(f"values are nested more than {MOST_NESTED} deep", event)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def refuse(self, reason: str, event: Any) -> NoReturn:
        """Raise an error with the position."""
        raise _RefusedError(None, None, reason, event.start_mark)

    def value(self, node: Any) -> Any:
        """The value of a node."""
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item) for item in node.value]
        values: dict[Hashable, Any] = {}
        for name, item in node.value:
            key = self.value(name)
            if not isinstance(key, str):
                self.refuse(f"a key is not a text: {shown(key)}", name)
            if key == "<<":
                self.refuse("merge keys (<<) are not supported", name)
            if key in values:
                self.refuse(f"the key {shown(key)} appears twice", name)
            values[key] = self.value(item)
        return values

    def scalar(self, node: Any) -> Any:
        """Convert a plain scalar by its form; a quoted one is a text."""
        text = node.value
        if node.style is not None:
            return text
        if _NULL.fullmatch(text):
            return None
        if _FLAG.fullmatch(text):
            return text.lower() == "true"
        if _NO_NUMBER.fullmatch(text):
            self.refuse(f"{shown(text)} is not a number that a setting can have (in quotes it is a text)", node)
        if _WHOLE.fullmatch(text):
            if len(text) > _MOST_DIGITS:
                self.refuse(f"a number has {len(text):,} digits", node)
            return int(text)
        if _NUMBER.fullmatch(text):
            value = float(text)
            if math.isinf(value):
                self.refuse(f"{shown(text)} is too large for floating point", node)
            return value
        return text


def parse_yaml(text: str, what: str, where: str | None) -> Any:
    """The value of a text in YAML; None if it is empty.

    Args:
        text: one document.
        what: what it is to the user, for the message.
        where: the file, or None; the line is appended.

    Raises:
        BadInputError: it is not YAML, or contains something that is refused (see the module).
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return None if node is None else loader.value(node)
        finally:
            loader.dispose()
    except _RefusedError as error:
        reason, mark = str(error.problem), error.problem_mark
    except yaml.MarkedYAMLError as error:
        reason, mark = (
            f"it is not valid YAML: {error.problem or error.context}",
            error.problem_mark or error.context_mark,
        )
    except yaml.reader.ReaderError as error:
        reason, mark = f"the character {error.character!r} is not allowed in YAML", None
        if isinstance(error.character, int):
            reason = f"the character U+{error.character:04X} is not allowed in YAML"
    except (yaml.YAMLError, ValueError, IndexError, OverflowError) as error:  # an escape for an invalid character
        reason, mark = f"it is not valid YAML: {error}", None
    except RecursionError:
        reason, mark = f"values are nested more than {MOST_NESTED} deep", None
    line = f":{mark.line + 1}" if mark else ""
    raise BadInputError(
        f"{what} cannot be read: {reason}",
        where=f"{where}{line}" if where else None,
        remedy="put a text that looks like something else in quotes" if where is None else "fix the file",
    ) from None


def read_yaml(path: Path, what: str) -> Any:
    """The value of a YAML file of up to `MOST_CHARACTERS` bytes; None for an empty one.

    Raises:
        BadInputError: as `harness.core.reading.read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path, what, MOST_CHARACTERS), f"the {what}", str(path))
