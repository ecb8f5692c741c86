"""Files of the harness: hashing, atomic writes, JSON lines. (Reading other files: `harness.core.reading`.)

Whatever a later step reads is written to a temporary name and renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.core.disk import make_folder
from harness.core.errors import BadInputError
from harness.core.reading import placed_rows, read_json, read_jsonl, row_at
from harness.core.redaction import blank, clean_json, redact
from harness.core.removal import REMOVED, discard, move, remove, swap
from harness.core.temporary import SUFFIX, temporary_file, temporary_folder
from harness.core.terminal import say

__all__ = [
    "atomic_folder",
    "atomic_path",
    "dump_row",
    "naming",
    "placed_rows",
    "read_json",
    "read_jsonl",
    "remove_left_overs",
    "row_at",
    "sha256_bytes",
    "sha256_file",
    "sha256_folder",
    "sha256_json",
    "to_cache",
    "write_json",
    "write_jsonl",
]

_CHUNK = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value in canonical form (sorted keys, no blanks)."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())


def dump_row(row: Any) -> str:
    """A value as one line of JSON, without secrets: readable text, with escapes for lone surrogates, which no file can contain."""
    line = json.dumps(row, ensure_ascii=False, default=str)
    line = line if _encodes(line) else json.dumps(row, default=str)
    return line if blank(line) == line else json.dumps(clean_json(json.loads(line), blank))


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def whole_lines(path: Path) -> list[bytes]:
    """The lines of an append-only file with one writer; an incomplete last line, left by a kill, is removed from the file, too."""
    data = path.read_bytes() if path.exists() else b""
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with path.open("r+b") as stream:
            stream.truncate(end)
    return data[:end].splitlines()


def sha256_folder(folder: Path, names: Iterable[str]) -> str:
    """Hex SHA-256 over the named files of a folder (names and contents, in sorted order)."""
    return sha256_json({name: sha256_file(folder / name) for name in sorted(names)})


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file to an error of the operating system; errors of writing, such as a full disk, do not name it themselves."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


_said: set[str] = set()


@contextlib.contextmanager
def to_cache(path: Path) -> Iterator[None]:
    """A block that writes to the cache. If the cache cannot be written, this is logged once, and values are computed again later."""
    try:
        with naming(path):
            yield
    except (OSError, BadInputError) as error:  # the latter: a file has the name of the cache's folder
        if not _said:
            _said.add("cache")
            reason = error.problem if isinstance(error, BadInputError) else (error.strerror or str(error)).lower()
            seen = error.where if isinstance(error, BadInputError) else error.filename
            say(
                f"the cache cannot be written ({reason}): its values are computed again each time. "
                f"Set HARNESS_CACHE to another folder; seen at {seen}",
                err=True,
            )


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it into place only if the block succeeds.

    What killed writers left in the same folder is removed first.
    """
    make_folder(target.parent)
    with temporary_file(target) as temporary:
        try:
            with naming(target):
                yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            # A temporary file is private; what we publish has the user's ordinary permissions.
            temporary.chmod(0o666 & ~_umask())
            move(temporary, target, within=target.parent)
        except BaseException:
            discard(temporary, within=target.parent)
            raise


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; rename it into place only if the block succeeds.

    An existing `target` is replaced. What killed writers left in the same folder is removed first.
    """
    make_folder(target.parent)
    with temporary_folder(target) as temporary:
        try:
            with naming(target):
                yield temporary
            temporary.chmod(0o777 & ~_umask())
            swap(temporary, target, within=target.parent)
        except BaseException:
            discard(temporary, within=target.parent)
            raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def remove_left_overs(target: Path) -> None:
    """Remove what killed writers of a file or folder left next to it; only the single present writer may call this.

    This also removes files of living writers on file systems without locks, and temporary names of earlier versions.
    """
    # Only names made by `tempfile` and `removal`: a user's hidden file may begin in the same way.
    ours = re.compile(re.escape(f".{target.name}.") + rf"[a-z0-9_]{{8}}({re.escape(SUFFIX)})?({re.escape(REMOVED)})?")
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        if ours.fullmatch(path.name):
            remove(path, within=target.parent)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically, without secrets."""
    with atomic_path(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
        escaped = not _encodes(text)
        if redact(text) != text:
            value = clean_json(json.loads(text), redact)
            text = json.dumps(value, indent=1, ensure_ascii=False)
        if escaped:
            text = json.dumps(value, indent=1, default=str)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write JSON lines atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(dump_row(row) + "\n")
