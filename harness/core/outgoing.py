"""Files for others: what is only true on this machine stays here."""

from __future__ import annotations

import re
from typing import Any

_PATH = re.compile(
    r"(?P<option>--?[\w-]+=)?(?P<folders>(?:/|~[/\\]|[A-Za-z]:[/\\]|\\\\)(?:[^\n]*[/\\])?)(?P<last>[^/\\\n]*)"
)
"""An absolute path of POSIX or Windows, alone or behind an option and `=`."""


def without_folders(value: Any) -> Any:
    """A JSON-able value whose absolute paths are cut to their last part: folders name people, machines and projects.

    Whole texts only: a path inside a sentence stays.
    """
    if isinstance(value, dict):
        return {key: without_folders(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_folders(part) for part in value]
    if isinstance(value, str) and (path := _PATH.fullmatch(value.rstrip("/\\"))):
        return f"{path['option'] or ''}{path['last']}"
    return value
