"""The user's options for reading preference data."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError, shown
from harness.core.yaml_values import read_yaml

NAMES = (
    "image",
    "images",
    "prompt",
    "question",
    "chosen",
    "rejected",
    "rejected_image",
    "rejected_images",
    "ranked_images",
    "standard_response",
    "text",
    "instruction",
    "input",
    "query",
    "response",
    "rejected_response",
    "messages",
    "rejected_messages",
    "conversations",
    "rejected_conversations",
    "system",
    "history",
    "earlier_turns",
    "completions",
    "img_path",
    "id",
    "idx",
    "source",
    "chosen_spans",
    "rejected_spans",
    "objects",
    "shared_context",
    "responses_end",
    "example_weight",
    "chosen_weights",
    "rejected_weights",
)
"""Column names of the formats: the left sides of `--columns`."""
_MAPPINGS = (".yaml", ".yml", ".json")
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
        """From the options `--columns question=query,image=picture`, or `--columns columns.yaml`, and `--image-root DIR`.

        Raises:
            BadInputError: a value has another form, a name is unknown or appears twice, or the file or folder does not exist.
        """
        if columns is not None and "=" not in columns and columns.endswith(_MAPPINGS):
            return cls.of(_of_file(Path(columns)), image_root)
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
        """A record with columns renamed to the formats' names, by the user's names first and then by those of an image folder."""
        return _with_files(self._renamed(record))

    def name_in_file(self, name: str, sample: Mapping[str, Any]) -> str:
        """The file's own name of a column of the formats.

        Args:
            name: of the column in a renamed record.
            sample: the file's columns as they are.
        """
        files = (file for file in sample if file_column(file) == name) if name not in sample else ()
        return self.columns.get(name) or next(iter(files), name)

    def _renamed(self, record: Mapping[str, Any]) -> dict[str, Any]:
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


def _of_file(path: Path) -> dict[str, str]:
    """The mapping of a YAML or JSON file.

    Raises:
        BadInputError: it is not a mapping of names to names.
    """
    value = read_yaml(path, "mapping of columns")
    if not isinstance(value, dict) or not all(isinstance(one, str) for pair in value.items() for one in pair):
        raise BadInputError(
            "the mapping of columns is not a list of NAME: COLUMN",
            where=str(path),
            remedy="e.g. the line  prompt: query",
        )
    return value


def file_column(name: str) -> str | None:
    """The column with images that a column of an image folder's metadata names files of; None for any other column.

    Source: the documentation of `datasets`, "ImageFolder": `file_name` or `file_names`, or `*_file_name` or `*_file_names`.
    """
    for ending, column in (("file_name", "image"), ("file_names", "images")):
        if name == ending:
            return column
        if name.endswith(f"_{ending}"):
            return name.removesuffix(f"_{ending}")
    return None


def _with_files(record: dict[str, Any]) -> dict[str, Any]:
    """A record of an image folder's metadata with the names of the columns of images; a column of such a name stays."""
    if not any(file_column(name) for name in record):
        return record
    return {
        new if (new := file_column(name)) is not None and new not in record else name: value
        for name, value in record.items()
    }


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
