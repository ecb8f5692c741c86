"""`dataset_info.json`: LLaMA-Factory's description of files, with the names of columns and tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError
from harness.core.reading import read_json
from harness.core.typed import Fields

DESCRIPTION = "dataset_info.json"


@dataclass(frozen=True, slots=True)
class FileDescription:
    """The description of one file."""

    columns: Mapping[str, str]
    tags: Mapping[str, str]


def entry_of(file: Path, formatting: str) -> FileDescription | None:
    """The description next to a file, if it describes the file with this form.

    Raises:
        BadInputError: it says that the file is not preference data, or has values that are not names.
    """
    path = file.parent / DESCRIPTION
    if not path.is_file():
        return None
    described: Any = read_json(path, "description of data sets")
    for entry in described.values() if isinstance(described, dict) else ():
        if not isinstance(entry, dict) or entry.get("file_name") != file.name:
            continue
        if entry.get("formatting", "alpaca") != formatting:
            continue
        if entry.get("ranking") is not True:
            raise BadInputError(
                f"{DESCRIPTION} says that {file.name} is not preference data: 'ranking' is not true",
                where=str(path),
                remedy='write "ranking": true if its records have chosen and rejected answers',
            )
        fields = Fields(entry, str(path), "entry")
        return FileDescription(_names(fields, "columns"), _names(fields, "tags"))
    return None


def _names(fields: Fields, key: str) -> dict[str, str]:
    if not fields.has(key):
        return {}
    inner = fields.fields(key)
    return {name: inner.text(name) for name in inner.value if inner.has(name)}
