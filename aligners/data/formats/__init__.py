"""The formats of preference data, and which of them a file has: told by its columns, not by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aligners.data.formats.base import BadRecordError, Format, Record, Said
from aligners.data.formats.plain import Plain
from aligners.data.formats.published import RlaifV, RlhfV
from aligners.data.formats.sharegpt import ShareGpt
from aligners.data.formats.trl import Trl
from harness.errors import BadInputError, UnknownNameError

FORMATS: Mapping[str, Format] = {one.name: one for one in (RlaifV(), RlhfV(), ShareGpt(), Trl(), Plain())}
"""By name. The first that recognises a file's columns reads it."""

__all__ = ["FORMATS", "BadRecordError", "Format", "Record", "Said", "detect", "find_format"]


def find_format(name: str) -> Format:
    """A format by its name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in FORMATS:
        raise UnknownNameError("format of preference data", name, FORMATS)
    return FORMATS[name]


def detect(file: Path, records: Iterable[Record], named: Format | None = None) -> Format:
    """The format of a file.

    Args:
        file: it, for descriptions beside it and for messages.
        records: some of its records.
        named: the format that the user says it has; then it is only checked.

    Raises:
        BadInputError: no known format has such columns, or the named one has not.
    """
    sample: dict[str, Any] = {}
    for record in records:
        for column, value in record.items():
            if sample.get(column) is None:
                sample[column] = value
    candidates = [one.for_file(file) for one in ([named] if named else FORMATS.values())]
    for one in candidates:
        if one.recognises(sample):
            return one
    columns = ", ".join(f"{name} ({_kind(value)})" for name, value in sample.items()) or "none"
    if named:
        raise BadInputError(
            f"these are not the columns of the format {named.name}, which has {named.needs}; they are: {columns}",
            where=str(file),
            remedy="leave out the format, so that it is told by the columns",
        )
    raise BadInputError(
        f"no known format of preference data has these columns: {columns}",
        where=str(file),
        remedy="known: " + "; ".join(f"{one.name} ({one.needs})" for one in candidates),
    )


def _kind(value: Any) -> str:
    """What a column holds, in a word."""
    kinds = {str: "text", list: "list", dict: "object", type(None): "null", int: "number", float: "number"}
    return kinds.get(type(value), "image" if type(value).__name__.endswith("Cell") else type(value).__name__)
