"""Files of records: Parquet, Arrow, JSON lines, JSON arrays. Texts are read into memory, images stay in the files (`cells`)."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from aligners.preferences.cells import (
    ArrowBatches,
    LineCell,
    ParquetCell,
    RowGroups,
    arrow_errors,
    open_parquet,
    parquet_rows,
)
from harness.core.errors import BadInputError, shown
from harness.core.files import atomic_path, sha256_json
from harness.core.progress import progress
from harness.core.reading import open_binary, parse_line, read_json
from harness.core.typed import kind_of

logger = logging.getLogger(__name__)

IMAGE_COLUMNS = ("image", "images", "rejected_image", "rejected_images", "ranked_images")
BROKEN = "\0broken"
"""The only key of a record that could not be read; its value is the reason."""
_LONG = 4096
"""A longer text in an image column is an encoded image, not a path."""
_GROUP_BYTES = 64 << 20
"""A larger row group of images is copied in pieces, because reading one image would read all of it."""
_PIECE_BYTES = 8 << 20

Record = dict[str, Any]


class Table(ABC):
    """One file. Rows are numbered from 1, as editors number lines."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.named = file
        """The file as messages name it: the user's, where `file` is an unpacked copy."""

    @abstractmethod
    def numbers(self) -> Collection[int]:
        """The rows that contain a record. Only their positions are read."""

    @abstractmethod
    def records(self, wanted: Collection[int]) -> Iterator[tuple[int, Record]]:
        """The wanted rows, in order; large values as cells; a broken one as `{BROKEN: reason}`."""


class LineTable(Table):
    """JSON lines. A long text in an image column (base64) stays in the file."""

    def __init__(self, file: Path, images: Collection[str]) -> None:
        super().__init__(file)
        self._image_columns = images

    def numbers(self) -> Collection[int]:
        """See `Table`."""
        with open_binary(self.file, "data") as stream:
            return [number for number, line in enumerate(stream, 1) if line.strip()]

    def records(self, wanted: Collection[int]) -> Iterator[tuple[int, Record]]:
        """See `Table`."""
        keep = set(wanted)
        offset = 0
        with open_binary(self.file, "data") as stream:
            for number, line in enumerate(stream, 1):
                if number in keep and line.strip():
                    yield number, self._record(line, number, offset)
                offset += len(line)

    def _record(self, line: bytes, number: int, offset: int) -> Record:
        try:
            record = parse_line(line, number, "data", self.file)
        except BadInputError as error:
            return {BROKEN: error.problem}
        for column in self._image_columns:
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
    """One JSON array of records, as LLaMA-Factory writes. It is read into memory as a whole, so its images should be paths."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        try:
            self._rows = read_json(file, "file")
        except BadInputError as error:
            raise BadInputError(
                error.problem,
                where=error.where,
                remedy="fix it; a file with one JSON object per line must be named .jsonl",
            ) from None
        if not isinstance(self._rows, list):
            raise BadInputError(
                f"the file is {kind_of(self._rows)}, not a JSON array of records",
                where=str(file),
                remedy="put the records into one array: [{...}, {...}]",
            )

    def numbers(self) -> Collection[int]:
        """See `Table`."""
        return range(1, len(self._rows) + 1)

    def records(self, wanted: Collection[int]) -> Iterator[tuple[int, Record]]:
        """See `Table`."""
        for number in sorted(wanted):
            row = self._rows[number - 1]
            yield number, dict(row) if isinstance(row, dict) else {BROKEN: "the record is not a JSON object"}


def _kept(schema: Any, file: Path, images: Collection[str]) -> tuple[list[str], list[str]]:
    """Split columns into those that stay in the file, and those that are read.

    Raises:
        BadInputError: two columns have one name.
    """
    names = schema.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInputError(
            f"two columns are called {shown(twice[0])}", where=str(file), remedy="give each column a unique name"
        )
    left = [field.name for field in schema if field.name in images or _has_bytes(field.type)]
    return left, [name for name in names if name not in left]


class ArrowTable(Table):
    """Record batches of Arrow, as `datasets` saves them. Columns with bytes, and those named as images, stay in the file."""

    def __init__(self, file: Path, groups: RowGroups, images: Collection[str]) -> None:
        super().__init__(file)
        self._groups = groups
        with arrow_errors("this is not a complete Arrow file", str(file)):
            self._batches = ArrowBatches(file).batches
        schema = self._batches[0].schema if self._batches else None
        self._left, self._read = _kept(schema, file, images) if schema else ([], [])

    def numbers(self) -> Collection[int]:
        """See `Table`."""
        return range(1, sum(batch.num_rows for batch in self._batches) + 1)

    def records(self, wanted: Collection[int]) -> Iterator[tuple[int, Record]]:
        """See `Table`."""
        keep = set(wanted)
        number = 0
        for group, batch in enumerate(self._batches):
            with arrow_errors("a value of the file cannot be read", str(self.file)):
                rows = batch.select(self._read).to_pylist() if self._read else [{} for _ in range(batch.num_rows)]
            for row, record in enumerate(rows):
                number += 1
                if number in keep:
                    cells = {name: ParquetCell(self._groups, self.file, group, row, name) for name in self._left}
                    yield number, record | cells


class ParquetTable(Table):
    """Parquet. Columns with bytes, and those named as images, stay in the file."""

    def __init__(self, file: Path, groups: RowGroups, cache: Path | None, images: Collection[str]) -> None:
        super().__init__(file)
        self._groups, self._cache = groups, cache
        self._parquet = open_parquet(file)
        with arrow_errors("this is not a complete Parquet file", str(file)):
            self._left, self._read = _kept(self._parquet.schema_arrow, file, images)
            rows = [self._parquet.metadata.row_group(group).num_rows for group in _groups_of(self._parquet)]
        if sum(rows) != self._parquet.metadata.num_rows:
            raise BadInputError(
                f"this is not a complete Parquet file: its header counts {self._parquet.metadata.num_rows} rows, its groups {sum(rows)}",
                where=str(file),
                remedy="download or write the file again",
            )

    def numbers(self) -> Collection[int]:
        """See `Table`."""
        return range(1, self._parquet.metadata.num_rows + 1)

    def records(self, wanted: Collection[int]) -> Iterator[tuple[int, Record]]:
        """See `Table`."""
        keep = set(wanted)
        images = self._images()
        number = 0
        for number, record, (group, row) in zip(self.numbers(), self._texts(), _places(images), strict=False):
            if number in keep:
                cells = {column: ParquetCell(self._groups, images, group, row, column) for column in self._left}
                yield number, record | cells
        if number != (counted := self._parquet.metadata.num_rows):
            raise BadInputError(
                f"the file's header counts {counted} rows, but it contains {number}",
                where=str(self.file),
                remedy="download or write the file again",
            )

    def _texts(self) -> Iterator[Record]:
        if not self._read:
            yield from ({} for _ in self.numbers())
            return
        yield from parquet_rows(self.file, columns=self._read)

    def _images(self) -> Path:
        """The file for reading images: this one, or a copy of its images in small row groups."""
        largest = max((sum(_sizes(self._parquet, group, self._left)) for group in _groups_of(self._parquet)), default=0)
        if largest <= _GROUP_BYTES or self._cache is None:
            return self.file
        state = self.file.stat()
        key = sha256_json(
            [str(self.file.resolve()), state.st_size, state.st_mtime_ns, self._left, _GROUP_BYTES, _PIECE_BYTES]
        )
        copy = self._cache / "preferences" / f"{key[:32]}.parquet"
        if not copy.exists():
            logger.info(
                f"{self.file.name} has its images in row groups of {largest >> 20} MB: "
                f"copied once, with smaller ones, to {copy}"
            )
            self._copy(copy)
        return copy

    def _copy(self, target: Path) -> None:
        """The image columns in the same order. Memory contains one page of the original, which has up to 1,024 rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = self._parquet.metadata.num_rows
        size = sum(sum(_sizes(self._parquet, group, self._left)) for group in _groups_of(self._parquet))
        step = max(1, rows * _PIECE_BYTES // max(size, 1))
        source = open_parquet(self.file, pre_buffer=False, buffer_size=1 << 20)
        schema = pa.schema([self._parquet.schema_arrow.field(name) for name in self._left])
        with (
            atomic_path(target) as temporary,
            progress(f"copying images of {self.file.name}", rows) as advance,
            pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False) as writer,
        ):
            for block in source.iter_batches(batch_size=step, columns=self._left, use_threads=False):
                writer.write_batch(block, row_group_size=step)
                advance(block.num_rows)


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
    metadata = open_parquet(file).metadata
    for group in range(metadata.num_row_groups):
        for row in range(metadata.row_group(group).num_rows):
            yield group, row
