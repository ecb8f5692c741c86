"""The user's options for reading preference data."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError, shown

NAMES = (
    "image",
    "images",
    "prompt",
    "question",
    "chosen",
    "rejected",
    "rejected_image",
    "rejected_images",
    "text",
    "instruction",
    "input",
    "query",
    "response",
    "rejected_response",
    "messages",
    "rejected_messages",
    "conversations",
    "system",
    "history",
    "id",
    "idx",
    "source",
    "chosen_spans",
    "rejected_spans",
    "objects",
)
"""Column names of the formats: the left sides of `--columns`."""
ASIDE = "{} (of the file)"
"""New name of a column whose name `--columns` gave to another column."""


@dataclass(frozen=True)
class DataOptions:
    """Renamed columns, and images outside of the data's folder.

    Attributes:
        columns: a name of `NAMES` -> the file's column.
        image_root: a folder that image paths may be relative to, or lie in, besides the data's own; or None.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    image_root: Path | None = None

    @classmethod
    def parse(cls, columns: str | None, image_root: Path | None) -> DataOptions:
        """From the options `--columns question=query,image=picture` and `--image-root DIR`.

        Raises:
            BadInputError: a value has another form, a name is unknown or appears twice, or the folder does not exist.
        """
        return cls.of(_pairs(columns) if columns is not None else {}, image_root)

    @classmethod
    def of(cls, columns: Mapping[str, str], image_root: Path | None) -> DataOptions:
        """From a mapping and a folder.

        Raises:
            BadInputError: an unknown name, a column named twice, or no such folder.
        """
        if image_root is not None and not _is_folder(image_root):
            raise BadInputError(
                f"--image-root needs a folder, and there is no folder {shown(str(image_root))}",
                remedy="give the folder that the image paths are relative to, or lie in",
            )
        for name, column in columns.items():
            if name not in NAMES:
                near = difflib.get_close_matches(name, NAMES, n=1)
                raise BadInputError(
                    f"--columns {shown(f'{name}={column}')[1:-1]}: no format has a column called {shown(name)}",
                    remedy=f"did you mean {near[0]}?" if near else f"known: {', '.join(NAMES)}",
                )
        if twice := [column for column, count in Counter(columns.values()).items() if count > 1]:
            raise BadInputError(f"--columns names {shown(twice[0])} twice")
        return cls(dict(columns), image_root)

    def described(self) -> dict[str, Any]:
        """Values for a run's record; empty without options."""
        said: dict[str, Any] = {"columns": dict(self.columns)} if self.columns else {}
        return said | ({"image_root": str(self.image_root)} if self.image_root else {})

    def check(self, columns: Mapping[str, Any], where: str) -> None:
        """Check that a file has the named columns.

        Raises:
            BadInputError: it does not.
        """
        for name, column in self.columns.items():
            if column not in columns:
                near = difflib.get_close_matches(column, list(columns), n=1)
                raise BadInputError(
                    f"--columns {name}={column}: there is no column '{column}'; there are: {', '.join(columns)}",
                    where=where,
                    remedy=f"did you mean {name}={near[0]}?" if near else "choose one of these",
                )

    def renamed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record with columns renamed to the formats' names."""
        if not self.columns:
            return dict(record)
        taken = set(self.columns.values())
        new = {
            ASIDE.format(key) if key in self.columns else key: value
            for key, value in record.items()
            if key not in taken
        }
        return new | {name: record[column] for name, column in self.columns.items() if column in record}


def _pairs(text: str) -> dict[str, str]:
    columns: dict[str, str] = {}
    for pair in text.split(","):
        name, equals, column = (part.strip() for part in pair.partition("="))
        if not equals or not name or not column:
            raise BadInputError(
                f"--columns takes NAME=COLUMN, not {shown(pair)}", remedy="e.g. --columns prompt=query,image=picture"
            )
        if name in columns:
            raise BadInputError(f"--columns names {shown(name)} twice")
        columns[name] = column
    return columns


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
