"""Images that stay in their files: cells of Parquet row groups and of JSON lines, read on access.

83,000 pairs with their images are 12 GB, their texts 60 MB. So a record has its texts in memory, and instead of an image's bytes a cell:
file, row group and row. The row groups that were used last stay in memory, up to `MOST_BYTES`.
"""

from __future__ import annotations

import base64
import binascii
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError, HarnessError, shown
from harness.core.reading import open_binary, row_at

_REMEDY = "download or write the file again"
MOST_BYTES = 64 << 20
"""Total size of row groups kept in memory; the one that is being read is always kept."""


@contextmanager
def arrow_errors(what: str, where: str) -> Iterator[None]:
    """Turn exceptions of Arrow, or of reading a line, on damaged data into a `BadInputError`.

    Arrow's own errors are of many kinds (OSError of a page's header, ValueError of a text that is no UTF-8, OverflowError of a
    date, NotImplementedError of an unusual type); all of them are about the file.
    """
    try:
        yield
    except HarnessError:
        raise
    except MemoryError:
        raise BadInputError(
            f"{what}: it needs more memory than is available, which damaged files can cause",
            where=where,
            remedy=_REMEDY,
        ) from None
    except Exception as error:  # noqa: BLE001
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInputError(f"{what}: {shown(reason, 200)[1:-1]}", where=where, remedy=_REMEDY) from None


class SourceCell(ABC):
    """One value of one record, read from disk each time."""

    @abstractmethod
    def value(self) -> Any:
        """The value: bytes, text, {bytes, path}, or a list of these."""

    def checked(self) -> Any:
        """The value, with errors as `BadInputError`.

        Raises:
            BadInputError: it cannot be read.
        """
        with arrow_errors("the value cannot be read", str(getattr(self, "file", ""))):
            return self.value()


@dataclass(frozen=True, slots=True)
class ParquetCell(SourceCell):
    """A cell in a row group: column and row."""

    groups: RowGroups = field(repr=False)
    file: Path
    group: int
    row: int
    column: str

    def value(self) -> Any:
        """See `SourceCell`."""
        return self.groups.column(self.file, self.group, self.column)[self.row].as_py()


@dataclass(frozen=True, slots=True)
class LineCell(SourceCell):
    """A key of a JSON line, which starts at a byte offset of a file."""

    file: Path
    offset: int
    column: str

    def value(self) -> Any:
        """See `SourceCell`."""
        return row_at(self.file, self.offset)[self.column]


@dataclass(frozen=True, slots=True)
class CellImage:
    """An image's encoded bytes in a cell (`harness.core.types.ImageSource`). `item` is its index if the cell contains a list."""

    cell: SourceCell
    item: int | None

    def read(self) -> bytes:
        """The encoded bytes.

        Raises:
            BadInputError: the file has changed since it was checked.
        """
        where = str(getattr(self.cell, "file", ""))
        with arrow_errors("the image cannot be read again; its file may have changed", where):
            value = self.cell.value()
            return encoded(value if self.item is None else value[self.item])


def encoded(value: Any) -> bytes:
    """An image's bytes from a data set's value: bytes, {bytes, ...}, base64, or a data URL.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is not an image")
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"invalid base64: {error}") from None


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
        """Drop open files: a worker process opens them itself."""
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
        if file not in self._files:
            self._files[file] = open_groups(file)
        return self._files[file]


def open_parquet(file: Path, **options: Any) -> Any:
    """A Parquet file, opened (`pyarrow.parquet.ParquetFile`).

    Raises:
        BadInputError: it is invalid, or is damaged.
    """
    import pyarrow.parquet as pq

    open_binary(file, "data").close()
    with arrow_errors("this is not a complete Parquet file", str(file)):
        return pq.ParquetFile(file, **options)


def parquet_rows(file: Path, batch_size: int = 1024, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, with a limited number in memory.

    Raises:
        BadInputError: it is invalid, or is damaged.
    """
    blocks = open_parquet(file).iter_batches(
        batch_size=batch_size, columns=None if columns is None else list(columns), use_threads=False
    )
    while True:
        with arrow_errors("a value of the file cannot be read", str(file)):
            block = next(blocks, None)
            rows = None if block is None else block.to_pylist()
        if rows is None:
            return
        yield from rows


def open_groups(file: Path) -> Any:
    """Open a Parquet file, or a file of Arrow record batches behind the same method."""
    return ArrowBatches(file) if file.suffix.lower() == ".arrow" else open_parquet(file)


class ArrowBatches:
    """Record batches, as `datasets` writes them (`save_to_disk`), each a row group. They are mapped into memory, not read."""

    def __init__(self, file: Path) -> None:
        import pyarrow as pa

        mapped = pa.memory_map(str(file))
        try:
            self.batches = list(pa.ipc.open_stream(mapped))
        except pa.ArrowInvalid:  # the file format with a footer, not a stream
            mapped.seek(0)
            opened = pa.ipc.open_file(mapped)
            self.batches = [opened.get_batch(number) for number in range(opened.num_record_batches)]
        for batch in self.batches:
            batch.validate(full=True)  # an offset in a damaged file may point anywhere in memory

    def read_row_group(self, group: int, columns: Sequence[str], use_threads: bool = False) -> Any:
        """A batch's columns as a table."""
        import pyarrow as pa

        return pa.Table.from_batches([self.batches[group].select(columns)])
