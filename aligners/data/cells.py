"""Images that stay where they are: cells of Parquet row groups and of JSON lines, opened when asked.

83,000 pairs with their images are 12 GB, their texts 60 MB. So a record that was read holds its texts, and in place of an image's
bytes a cell: which file, which row group, which row. Row groups that were asked for last stay in memory, up to `MOST_BYTES`.
"""

from __future__ import annotations

import base64
import binascii
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import BadInputError
from harness.files import row_at

MOST_BYTES = 64 << 20
"""Row groups kept in memory, together; the one that is being read always is."""


class Cell(ABC):
    """One value of one record, read again each time it is asked for."""

    @abstractmethod
    def value(self) -> Any:
        """The value: bytes, text, {bytes, path}, or a list of these."""


@dataclass(frozen=True, slots=True)
class ParquetCell(Cell):
    """A column of a row of a row group."""

    groups: RowGroups = field(repr=False)
    file: Path
    group: int
    row: int
    column: str

    def value(self) -> Any:
        """See `Cell`."""
        return self.groups.column(self.file, self.group, self.column)[self.row].as_py()


@dataclass(frozen=True, slots=True)
class LineCell(Cell):
    """A key of a JSON line that begins at a byte of a file."""

    file: Path
    offset: int
    column: str

    def value(self) -> Any:
        """See `Cell`."""
        return row_at(self.file, self.offset)[self.column]


@dataclass(frozen=True, slots=True)
class CellImage:
    """An image's encoded bytes in a cell (`harness.types.ImageSource`). `item` is its place where the cell holds a list."""

    cell: Cell
    item: int | None

    def read(self) -> bytes:
        """The encoded bytes.

        Raises:
            BadInputError: the file has changed since it was checked.
        """
        try:
            value = self.cell.value()
            return encoded(value if self.item is None else value[self.item])
        except (OSError, ValueError, LookupError, TypeError) as error:
            where = getattr(self.cell, "file", None)
            raise BadInputError(
                f"the image cannot be read again, as if its file had changed: {error}", where=str(where)
            ) from None


def encoded(value: Any) -> bytes:
    """An image's bytes out of what a data set has for them: bytes, {bytes, ...}, base64, a data URL.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is no image")
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"no valid base64: {error}") from None


class RowGroups:
    """Columns of Parquet row groups; those that were used last stay in memory. Safe to use from several threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._begin()

    def _begin(self) -> None:
        self._files: dict[Path, Any] = {}
        self._kept: OrderedDict[tuple[Path, int, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """A worker process opens the files itself."""
        return {"most_bytes": self.most_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.most_bytes = state["most_bytes"]
        self._begin()

    def column(self, file: Path, group: int, column: str) -> Any:
        """A column of a row group, as an Arrow array."""
        key = (file, group, column)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            array = self._open(file).read_row_group(group, columns=[column], use_threads=False).column(0)
            self._kept[key] = array
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > self.most_bytes:
                self._kept.popitem(last=False)
            return array

    def _open(self, file: Path) -> Any:
        import pyarrow.parquet as pq

        if file not in self._files:
            self._files[file] = pq.ParquetFile(file)
        return self._files[file]
