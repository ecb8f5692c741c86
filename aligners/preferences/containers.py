"""Files of records that are not read as they are: comma- or tab-separated text, WebDataset's tar files, and gzip."""

from __future__ import annotations

import gzip
import logging
import re
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from aligners.preferences.cells import SourceCell
from aligners.preferences.tables import BROKEN, Record, Table
from harness.core.errors import BadInputError, shown
from harness.core.files import atomic_path, sha256_json
from harness.core.paths import cache_folder
from harness.core.reading import decode, open_binary, parse_json
from harness.core.tables import read_table

logger = logging.getLogger(__name__)

_NESTED = frozenset(
    {
        "images",
        "rejected_images",
        "ranked_images",
        "messages",
        "rejected_messages",
        "conversations",
        "rejected_conversations",
        "chosen_spans",
        "rejected_spans",
        "objects",
        "history",
        "earlier_turns",
        "chosen_weights",
        "rejected_weights",
        "completions",
    }
)
"""Columns that contain lists, which a cell of text can only contain as JSON."""
_SPOKEN = frozenset({"prompt", "chosen", "rejected"})
"""Columns that contain a text or, in conversational data, messages as JSON."""
_MESSAGES = re.compile(r"""\[\s*\{\s*["'](?:role|content|from|value)["']\s*:""")
"""How a list of messages begins, in JSON or as Python prints it."""
_WORDS = {"true": True, "false": False}
"""Tables write them in any case."""
_PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif"})
_TEXTS = frozenset({"txt", "text"})


class SeparatedTable(Table):
    """Comma- or tab-separated text with a header, read into memory as a whole. A row's number is its first line; an empty cell is null.

    Args:
        file: the file.
        columns: the formats' names of columns that have another name in the file (`DataOptions.columns`).
    """

    def __init__(self, file: Path, columns: Mapping[str, str]) -> None:
        super().__init__(file)
        # A column whose name the user gave to another one is none of the formats'.
        self._meanings = dict.fromkeys(columns, "") | {column: name for name, column in columns.items()}
        self._rows = {int(where.rpartition(":")[2]): row for where, row in read_table(file, "data")}

    def numbers(self) -> Collection[int]:
        """See `Table`."""
        return self._rows.keys()

    def records(self, wanted: Collection[int]) -> Iterator[tuple[int, Record]]:
        """See `Table`."""
        for number in sorted(wanted):
            try:
                yield number, {name: self._cell(name, text) for name, text in self._rows[number].items()}
            except BadInputError as error:
                yield number, {BROKEN: error.problem}

    def _cell(self, name: str, text: str) -> Any:
        """A cell's value: by its column a list, a number or a truth value; the text as it is if it has another form."""
        meaning = self._meanings.get(name, name)
        bare = text.strip()
        if not bare:
            return None
        if meaning in _NESTED and bare[0] in "[{":
            return parse_json(text, f"column '{name}'", "")
        if meaning in _SPOKEN and bare[0] == "[":
            return _messages_or_text(text, f"column '{name}'")
        if meaning == "responses_end":
            return _WORDS.get(bare.lower(), text)
        if meaning == "example_weight":
            try:
                return float(bare)
            except ValueError:
                return text
        return text


def _messages_or_text(text: str, column: str) -> Any:
    """The messages of a cell; any other text as it is, because an answer may be a list in JSON, too.

    Raises:
        BadInputError: the cell begins like a list of messages, and is not JSON.
    """
    try:
        value = parse_json(text, column, "")
    except BadInputError as error:
        if not _MESSAGES.match(text.lstrip()):
            return text
        raise BadInputError(
            f"{column} begins like a list of messages, but is not JSON: {error.problem}",
            remedy="write the list as JSON (json.dumps)",
        ) from None
    return value if value and all(map(_is_message, value)) else text


def _is_message(value: Any) -> bool:
    """Whether a value is a message {role, content} or {from, value}; a message that only calls tools has no content."""
    return isinstance(value, dict) and (isinstance(value.get("role"), str) or {"from", "value"} <= value.keys())


@dataclass(frozen=True, slots=True)
class TarCell(SourceCell):
    """A file in an uncompressed tar file, by its place in it (bytes)."""

    file: Path
    offset: int
    size: int

    def value(self) -> bytes:
        """See `SourceCell`."""
        with open_binary(self.file, "data") as stream:
            stream.seek(self.offset)
            content = stream.read(self.size)
        if len(content) != self.size:
            raise ValueError("the tar file ends inside it")
        return content


class TarTable(Table):
    """WebDataset's tar files: the files that share a name up to its first dot are one sample. Its images stay in the tar file.

    Source: the WebDataset format as `datasets` and the webdataset library read it. `0001.json` is an object of columns; `0001.jpg` (or
    another type of image) is the image, `0001.rejected_image.jpg` a column with an image, and `0001.prompt.txt` a column with a text. A
    file goes before a column of the same name in the JSON object. The sample's name is its number (`idx`) if the object has none.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._samples: dict[str, list[tuple[str, TarCell]]] = {}
        try:
            with open_binary(file, "data") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    path = PurePosixPath(member.name)
                    stem, _, kind = path.name.partition(".")
                    if member.isfile() and stem and kind:
                        cell = TarCell(file, member.offset_data, member.size)
                        self._samples.setdefault(str(path.parent / stem), []).append((kind.lower(), cell))
        except tarfile.TarError as error:
            raise BadInputError(
                f"this is not a complete, uncompressed tar file: {error}",
                where=str(file),
                remedy="download or write the file again; WebDataset's tar files are not compressed",
            ) from None
        self._names = list(self._samples)

    def numbers(self) -> Collection[int]:
        """See `Table`."""
        return range(1, len(self._names) + 1)

    def records(self, wanted: Collection[int]) -> Iterator[tuple[int, Record]]:
        """See `Table`."""
        for number in sorted(wanted):
            name = self._names[number - 1]
            try:
                record = self._record(name, self._samples[name])
            except BadInputError as error:
                record = {BROKEN: f"the sample {shown(name)}: {error.problem}"}
            yield number, record

    def _record(self, name: str, files: list[tuple[str, TarCell]]) -> Record:
        record: Record = {}
        columns = [(kind, _column(kind)) for kind, _ in files]
        if twice := [column for column, count in Counter(column for _, column in columns).items() if count > 1]:
            given = ", ".join(kind for kind, column in columns if column == twice[0])
            raise BadInputError(f"more than one file is its '{twice[0]}': {given}")
        for kind, cell in files:
            if _column(kind) == "json":
                fields = parse_json(decode(cell.checked(), "JSON file", name), "JSON file", name)
                if not isinstance(fields, dict):
                    raise BadInputError("its JSON file does not contain an object of columns")
                record |= fields
        for kind, cell in files:
            if (column := _column(kind)) != "json":
                ending = kind.rpartition(".")[2]
                record[column] = decode(cell.checked(), f"'{kind}'", name) if ending in _TEXTS else cell
        if record.get("id") is None and record.get("idx") is None:
            record["idx"] = PurePosixPath(name).name
        return record


def _column(kind: str) -> str:
    """The column that a file of a sample is, by the part of its name after the first dot."""
    before, dot, ending = kind.rpartition(".")
    if dot:
        return before
    return "image" if ending in _PICTURES else ending


def unpacked(file: Path, cache: Path | None) -> Path:
    """The content of a gzip file, unpacked once into the cache folder.

    Raises:
        BadInputError: it is not a complete gzip file.
    """
    state = file.stat()
    key = sha256_json([str(file.resolve()), state.st_size, state.st_mtime_ns])
    target = (cache or cache_folder()) / "preferences" / "unpacked" / f"{key[:32]}{Path(file.stem).suffix}"
    if target.exists():
        return target
    logger.info(f"{file.name}: unpacked once, to {target}")
    try:
        with (
            open_binary(file, "data") as packed,
            atomic_path(target) as temporary,
            gzip.open(packed) as stream,
            temporary.open("wb") as out,
        ):
            shutil.copyfileobj(stream, out, 1 << 20)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInputError(
            f"this is not a complete gzip file: {error}", where=str(file), remedy="download or write the file again"
        ) from None
    return target
