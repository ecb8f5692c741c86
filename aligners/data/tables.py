"""Files of records: Parquet, JSON lines, JSON arrays. Texts are read into memory, images are left where they are (`cells`)."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from aligners.data.cells import LineCell, ParquetCell, RowGroups
from harness.errors import BadInputError
from harness.files import atomic_path, sha256_json
from harness.progress import console, progress

IMAGE_COLUMNS = ("image", "images", "rejected_image")
BROKEN = "\0broken"
"""The one key of a record that could not be read; its value says why."""
_LONG = 4096
"""A longer text in an image column is an encoded image, not a path."""
_GROUP_BYTES = 64 << 20
"""A row group with more bytes of images is copied in pieces: one image would cost reading all of it."""
_PIECE_BYTES = 8 << 20

Record = dict[str, Any]


class Table(ABC):
    """One file. Rows are numbered from 1, as editors number lines."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @abstractmethod
    def numbers(self) -> Collection[int]:
        """The rows that hold a record. Nothing but their places is read."""

    @abstractmethod
    def records(self, wanted: Collection[int]) -> Iterator[tuple[int, Record]]:
        """The wanted rows, in order; large values as cells; a broken one as `{BROKEN: reason}`."""


def open_table(file: Path, groups: RowGroups, cache: Path | None) -> Table:
    """The file's reader, by its suffix."""
    if file.suffix == ".parquet":
        return ParquetTable(file, groups, cache)
    return ArrayTable(file) if file.suffix == ".json" else LineTable(file)


class LineTable(Table):
    """JSON lines. A long text in an image column (base64) stays in the file."""

    def numbers(self) -> Collection[int]:
        """See `Table`."""
        with self.file.open("rb") as stream:
            return [number for number, line in enumerate(stream, 1) if line.strip()]

    def records(self, wanted: Collection[int]) -> Iterator[tuple[int, Record]]:
        """See `Table`."""
        keep = set(wanted)
        offset = 0
        with self.file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if number in keep and line.strip():
                    yield number, self._record(line, offset)
                offset += len(line)

    def _record(self, line: bytes, offset: int) -> Record:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            return {BROKEN: f"the line is not valid JSON: {error}"}
        if not isinstance(record, dict):
            return {BROKEN: "the line is not a JSON object"}
        for column in IMAGE_COLUMNS:
            if _is_long(record.get(column)):
                record[column] = LineCell(self.file, offset, column)
        return record


def _is_long(value: Any) -> bool:
    if isinstance(value, list):
        return any(_is_long(one) for one in value)
    if isinstance(value, dict):
        return any(_is_long(one) for one in value.values())
    return isinstance(value, str) and len(value) > _LONG


class ArrayTable(Table):
    """One JSON array of records, as LLaMA-Factory has them. It is held as a whole: its images should be paths."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        try:
            self._rows = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise BadInputError(
                f"the file is not valid JSON: {error}",
                where=str(file),
                remedy="a file with one JSON object a line is named .jsonl",
            ) from None
        if not isinstance(self._rows, list):
            raise BadInputError("the file is not a JSON array of records", where=str(file))

    def numbers(self) -> Collection[int]:
        """See `Table`."""
        return range(1, len(self._rows) + 1)

    def records(self, wanted: Collection[int]) -> Iterator[tuple[int, Record]]:
        """See `Table`."""
        for number in sorted(wanted):
            row = self._rows[number - 1]
            yield number, dict(row) if isinstance(row, dict) else {BROKEN: "the record is not a JSON object"}


class ParquetTable(Table):
    """Parquet. Columns that hold bytes, and those named as images, stay in the file."""

    def __init__(self, file: Path, groups: RowGroups, cache: Path | None) -> None:
        super().__init__(file)
        self._groups, self._cache = groups, cache
        self._parquet = _open_parquet(file)
        schema = self._parquet.schema_arrow
        self._left = [field.name for field in schema if field.name in IMAGE_COLUMNS or _has_bytes(field.type)]
        self._read = [field.name for field in schema if field.name not in self._left]

    def numbers(self) -> Collection[int]:
        """See `Table`."""
        return range(1, self._parquet.metadata.num_rows + 1)

    def records(self, wanted: Collection[int]) -> Iterator[tuple[int, Record]]:
        """See `Table`."""
        keep = set(wanted)
        images = self._images()
        for number, record, (group, row) in zip(self.numbers(), self._texts(), _places(images), strict=True):
            if number in keep:
                cells = {column: ParquetCell(self._groups, images, group, row, column) for column in self._left}
                yield number, record | cells

    def _texts(self) -> Iterator[Record]:
        if not self._read:
            yield from ({} for _ in self.numbers())
            return
        for block in self._parquet.iter_batches(batch_size=1024, columns=self._read, use_threads=False):
            yield from block.to_pylist()

    def _images(self) -> Path:
        """The file that images are opened from: this one, or a copy of its images in small row groups."""
        largest = max((sum(_sizes(self._parquet, group, self._left)) for group in _groups_of(self._parquet)), default=0)
        if largest <= _GROUP_BYTES or self._cache is None:
            return self.file
        state = self.file.stat()
        key = sha256_json(
            [str(self.file.resolve()), state.st_size, state.st_mtime_ns, self._left, _GROUP_BYTES, _PIECE_BYTES]
        )
        copy = self._cache / "preferences" / f"{key[:32]}.parquet"
        if not copy.exists():
            console.print(
                f"[dim]{self.file.name} has its images in row groups of {largest >> 20} MB: "
                f"copied once, in smaller ones, to {copy}[/dim]"
            )
            self._copy(copy)
        return copy

    def _copy(self, target: Path) -> None:
        """The image columns in the same order. Memory holds a page of the original, which writers make of up to 1,024 rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = self._parquet.metadata.num_rows
        size = sum(sum(_sizes(self._parquet, group, self._left)) for group in _groups_of(self._parquet))
        step = max(1, rows * _PIECE_BYTES // max(size, 1))
        source = pq.ParquetFile(self.file, pre_buffer=False, buffer_size=1 << 20)
        schema = pa.schema([self._parquet.schema_arrow.field(name) for name in self._left])
        with (
            atomic_path(target) as temporary,
            progress(f"copying images of {self.file.name}", rows) as advance,
            pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False) as writer,
        ):
            for block in source.iter_batches(batch_size=step, columns=self._left, use_threads=False):
                writer.write_batch(block, row_group_size=step)
                advance(block.num_rows)


def _open_parquet(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInputError(
            f"this is not a complete Parquet file: {str(error).splitlines()[0][:200]}", where=str(file)
        ) from None


def _has_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_nested(kind):
        return any(_has_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _groups_of(parquet: Any) -> range:
    return range(parquet.metadata.num_row_groups)


def _sizes(parquet: Any, group: int, columns: Collection[str]) -> Iterator[int]:
    """Uncompressed bytes of the columns in a row group."""
    about = parquet.metadata.row_group(group)
    for number in range(about.num_columns):
        column = about.column(number)
        if column.path_in_schema.partition(".")[0] in columns:
            yield column.total_uncompressed_size


def _places(file: Path) -> Iterator[tuple[int, int]]:
    """(row group, row in it) of every row."""
    metadata = _open_parquet(file).metadata
    for group in range(metadata.num_row_groups):
        for row in range(metadata.row_group(group).num_rows):
            yield group, row
