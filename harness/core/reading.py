"""One reader for each kind of input file: JSON, JSON lines, lists of words. (YAML: `harness.core.yaml_values`.)

What cannot be read raises a `BadInputError` that says what, where (with the line) and how to fix it: a folder, a pipe or a device
instead of a file, a loop of links, another encoding than UTF-8 (a byte order mark is skipped), NaN, Infinity and numbers beyond floating
point (1e999) numbers with thousands of digits, values nested beyond `MOST_NESTED`. The values may have any type: read them through
`harness.core.typed.Fields`.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from harness.core.errors import BadInputError

MOST_NESTED = 100
"""Maximum nesting of lists and objects. No format of ours needs ten levels; a thousand exhaust the interpreter's stack."""
_THOROUGH = 1 << 20
"""Texts of up to this many characters are searched for deep nesting and numbers beyond floating point. In larger texts, only what stops
the parser is found, because the search would take longer than the parsing; `Fields` refuses such values later."""
_HUGE = re.compile(r"[0-9][eE]\+?[0-9]{3}|[0-9]{300}")
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def open_binary(path: Path, what: str = "file") -> BinaryIO:
    """Open an ordinary file for reading; never waits, unlike opening a pipe.

    Args:
        path: the file.
        what: what the file is to the user ("annotations", "manifest"), for the message.

    Raises:
        BadInputError: it does not exist, is not an ordinary file, or cannot be read.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 (Path.stat is the same call)
        if stat.S_ISREG(mode):
            return path.open("rb")
    except FileNotFoundError:
        raise BadInputError(f"the {what} does not exist", where=str(path), remedy="check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInputError(
            f"the {what} cannot be read: {reason}", where=str(path), remedy="check the path and its permissions"
        ) from None
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
    raise BadInputError(
        f"the {what} is {kind}, not a file",
        where=str(path),
        remedy="give a file in it" if stat.S_ISDIR(mode) else "write its output to a file, and give that",
    )


def read_bytes(path: Path, what: str = "file", most: int | None = None) -> bytes:
    """All bytes of an ordinary file.

    Args:
        path: the file.
        what: for the message.
        most: a larger file is refused without reading it.

    Raises:
        BadInputError: as `open_binary`; or it is too large for memory or for `most`.
    """
    try:
        with open_binary(path, what) as stream:
            if most is not None and (size := os.fstat(stream.fileno()).st_size) > most:
                raise BadInputError(
                    f"the {what} has {size:,} bytes; more than {most:,} are not read",
                    where=str(path),
                    remedy="check that it is the right file",
                )
            return stream.read()
    except OSError as error:
        raise BadInputError(
            f"the {what} cannot be read: {error.strerror}", where=str(path), remedy="check the disk and the path"
        ) from None
    except MemoryError:
        raise BadInputError(
            f"the {what} does not fit into memory", where=str(path), remedy="check that it is the right file"
        ) from None


def decode(data: bytes, what: str, where: str) -> str:
    """Bytes as UTF-8, without a byte order mark.

    Raises:
        BadInputError: they are not UTF-8; the message names the line of the first invalid byte.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            _not_utf8(f"it is {name}", what, where, name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = "UTF-16" if b"\0" in data[:256] else "LATIN1"
        _not_utf8(f"byte 0x{data[error.start]:02x} in line {line}", what, f"{where}:{line}", name)
    if "\0" in text[:256]:
        _not_utf8("it contains null characters, like UTF-16", what, where, "UTF-16")
    return text


def _not_utf8(reason: str, what: str, where: str, likely: str) -> NoReturn:
    raise BadInputError(
        f"the {what} is not valid UTF-8: {reason}",
        where=where,
        remedy=f"save it as UTF-8, e.g.: iconv -f {likely} -t UTF-8 FILE > NEW",
    ) from None


def read_text(path: Path, what: str = "file", most: int | None = None) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        BadInputError: as `read_bytes` and `decode`.
    """
    return decode(read_bytes(path, what, most), what, str(path))


def read_list(path: Path, what: str = "list") -> list[str]:
    """The non-empty lines of a text file, stripped (for example a list of words).

    Raises:
        BadInputError: as `read_text`.
    """
    # Not splitlines(), which also splits at characters that may occur inside a line.
    return [line for one in read_text(path, what).split("\n") if (line := one.strip())]


def parse_json(text: str, what: str, where: str, *, finite: bool = True, line: int | None = None) -> Any:
    """The value of a text in JSON.

    Args:
        text: the text.
        what: for the message.
        where: for the message; the line of a mistake is appended.
        finite: whether NaN, Infinity and numbers beyond floating point are refused, which are not JSON.
        line: the text's line in the file, if the file has several texts.

    Raises:
        BadInputError: it is not JSON, or contains something that is refused (see the module).
    """
    number = f"{where}:{line}" if line else where
    try:
        value = json.loads(text, parse_constant=_refuse_constant if finite else None)
        if len(text) <= _THOROUGH:
            if finite and _HUGE.search(text):
                json.loads(text, parse_float=_finite, parse_int=_bounded)
            if text.count("[") + text.count("{") > MOST_NESTED and _is_deeper(value, MOST_NESTED):
                raise RecursionError
        return value
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if line else f"line {error.lineno}, column {error.colno}"
        reason = f"{error.msg} ({place})"
        number = number if line else f"{where}:{error.lineno}"
    except RecursionError:
        reason = f"values are nested more than {MOST_NESTED} deep"
    except ValueError as error:
        long = "digits" in str(error) and "limit" in str(error)
        reason = "a number has thousands of digits" if long else str(error)
    subject = f"line {line} of the {what}" if line else f"the {what}"
    raise BadInputError(f"{subject} is not valid JSON: {reason}", where=number, remedy="fix the file") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON; write null for a missing value")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is too large for floating point")
    return value


def _bounded(text: str) -> int:
    if len(text) > 300:
        raise ValueError(f"the number {text[:20]}... has {len(text)} digits")
    return int(text)


def _is_deeper(value: Any, most: int) -> bool:
    """Whether lists and objects are nested more than `most` levels deep; checked level by level, without recursion."""
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def read_json(path: Path, what: str = "file", *, finite: bool = True) -> Any:
    """Read a JSON file; a missing or broken one is a `BadInputError` that names it.

    Args:
        path: the file.
        what: what the file is to the user ("annotations", "manifest"), for the message.
        finite: whether NaN and Infinity are refused. (Configurations of models on the hub have them.)
    """
    return parse_json(read_text(path, what), what, str(path), finite=finite)


def read_jsonl(path: Path, what: str = "file", *, finite: bool = True) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON-lines file; a broken line is a `BadInputError` with its number."""
    for _, _, row in _lines(path, what, finite):
        yield row


def placed_rows(path: Path, what: str = "file") -> Iterator[tuple[int, dict[str, Any]]]:
    """Like `read_jsonl`, with the byte offset of each record's line, for `row_at`."""
    for _, place, row in _lines(path, what, True):
        yield place, row


def numbered_rows(path: Path, what: str = "file", *, finite: bool = True) -> Iterator[tuple[int, dict[str, Any]]]:
    """Like `read_jsonl`, with the number of each record's line, for messages."""
    for number, _, row in _lines(path, what, finite):
        yield number, row


def read_records(path: Path, what: str = "file") -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of a file of JSON objects, one per line or all in one JSON array, recognised by its first character.

    The place is "PATH:LINE", in an array "PATH[INDEX]".
    """
    with open_binary(path, what) as stream:
        array = stream.read(256).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    if not array:
        for number, _, row in _lines(path, what, True):
            yield f"{path}:{number}", row
        return
    for index, row in enumerate(read_json(path, what)):
        if not isinstance(row, dict):
            raise BadInputError(f"entry {index} of the {what} is not a JSON object", where=f"{path}[{index}]")
        yield f"{path}[{index}]", row


def _lines(path: Path, what: str, finite: bool) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(line's number, its first byte, record)."""
    with open_binary(path, what) as stream:
        place = 0
        for number, line in enumerate(stream, 1):
            begin, place = place, place + len(line)
            if line.strip():
                yield number, begin, parse_line(line, number, what, path, finite=finite)


def parse_line(line: bytes, number: int, what: str, path: Path, *, finite: bool = True) -> dict[str, Any]:
    """The record in a line of a JSON-lines file.

    Raises:
        BadInputError: it is not a JSON object; the message has the line's number.
    """
    # In a later line a byte order mark is a mistake, and in UTF-16 every second line begins with half a character.
    text = decode(line, what, str(path)) if number == 1 else _utf8(line, number, what, path)
    row = parse_json(text, what, str(path), finite=finite, line=number)
    if not isinstance(row, dict):
        raise BadInputError(
            f"line {number} of the {what} is not a JSON object",
            where=f"{path}:{number}",
            remedy="write one object per line",
        )
    return row


def _utf8(line: bytes, number: int, what: str, path: Path) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        _not_utf8(f"byte 0x{line[error.start]:02x} in line {number}", what, f"{path}:{number}", "LATIN1")


def row_at(path: Path, place: int) -> Any:
    """The record of a JSON-lines file that begins at a byte.

    Raises:
        OSError: the file cannot be read.
        ValueError: no record begins there (any more).
    """
    with path.open("rb") as stream:
        stream.seek(place)
        return json.loads(stream.readline().decode("utf-8-sig"))
