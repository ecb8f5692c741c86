"""What was found out about a checkpoint's files, kept by their contents: to ask transformers again takes seconds of imports.

And the contents' hashes, kept by what the file system says of a file: to read 14 GB again takes a quarter of a minute and more.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.core.files import read_json, sha256_file, sha256_json, to_cache, write_json
from harness.core.paths import cache_folder

_RULES = {"architecture": 2, "adapter": 1, "complete": 1, "template": 2, "hash": 1}
"""To be counted up when the same files are to give another answer, or none, from now on."""

_ANSWERED_BY = ("transformers", "tokenizers", "torchvision", "peft")
"""What reads the files: another version may read them in another way, and without torchvision images are prepared by other code."""

LARGE = 64 * 2**20
"""Bytes from which on a file's hash is kept; smaller ones are read every time, which takes less than a tenth of a second."""

SETTLED = 10.0
"""Seconds that a file must have been as it is before its hash is kept: file systems tell times only to the tick of their clock, so one
that is written twice within it looks the same."""

_SETTINGS = (".json", ".jinja", ".txt", ".model", ".tiktoken")
"""The files of a checkpoint that are no weights."""


def known(what: str, found_in: dict[str, Any], find_out: Callable[[], str]) -> str:
    """The answer to a question about files, from the user's cache if it was found out before.

    Args:
        what: the question.
        found_in: everything in the files that decides the answer; the versions of what reads them and of our own rule are added.
        find_out: finds the answer. What it raises is not kept.
    """
    key = sha256_json({what: _RULES[what], **{name: _version(name) for name in _ANSWERED_BY}, **found_in})
    path = cache_folder() / "checkpoints" / f"{what}-{key}.json"
    if path.exists():
        return str(read_json(path, "kept answer")["answer"])
    answer = find_out()
    with to_cache(path):
        write_json(path, {"answer": answer})
    return answer


def file_hash(path: Path) -> str:
    """SHA-256 of a file; of a large one that is still the same by name, size, times and inode, as it was found before."""
    there = path.stat()
    return _file_hash(path.resolve(), (there.st_size, there.st_mtime_ns, there.st_ctime_ns, there.st_ino, there.st_dev))


@functools.lru_cache(maxsize=256)
def _file_hash(path: Path, state: tuple[int, ...]) -> str:
    size, *times = state[:3]
    if size < LARGE or time.time() - max(times) / 1e9 < SETTLED:
        return sha256_file(path)
    return known("hash", {"path": os.fspath(path), "state": state}, lambda: sha256_file(path))


def settings_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a checkpoint's folder, or in a folder of it, that is no weights, by its path in it."""
    files = sorted(
        path for path in (*folder.glob("*"), *folder.glob("*/*")) if path.suffix in _SETTINGS and path.is_file()
    )
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
