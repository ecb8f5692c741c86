"""A cache of facts about checkpoint files, by their contents, because asking transformers again takes seconds of imports.

It also caches hashes of contents, by the file's metadata, because reading 14 GB again takes 15 seconds or more.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.core.files import read_json, sha256_file, sha256_json, to_cache, write_json
from harness.core.paths import cache_folder

_RULES = {"architecture": 2, "adapter": 1, "complete": 1, "template": 2, "hash": 1, "folder": 1}
"""Version; raised when the answers for the same files change."""

_ANSWERED_BY = ("transformers", "tokenizers", "torchvision", "peft")
"""The packages that read the files: another version may read them differently, and without torchvision other code prepares images."""

LARGE = 64 * 2**20
"""Size in bytes from which on a file's hash is cached; smaller files are read every time, in less than a tenth of a second."""

SETTLED = 10.0
"""Minimum age in seconds of a file's last change before its hash is cached: file systems have coarse time stamps, so a file that is
written twice within a tick looks unchanged."""

_SETTINGS = (".json", ".jinja", ".txt", ".model", ".tiktoken")
"""The files of a checkpoint that are not weights."""


def known(what: str, found_in: dict[str, Any], find_out: Callable[[], str]) -> str:
    """The answer to a question about files, from the user's cache if it is there.

    Args:
        what: the question.
        found_in: everything in the files that determines the answer; the versions of the readers and of our rule are added.
        find_out: finds the answer. Exceptions are not cached.
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
    """SHA-256 of a file; for a large file with unchanged name, size, times and inode, from the cache."""
    there = path.stat()
    return _file_hash(path.resolve(), (there.st_size, there.st_mtime_ns, there.st_ctime_ns, there.st_ino, there.st_dev))


@functools.lru_cache(maxsize=256)
def _file_hash(path: Path, state: tuple[int, ...]) -> str:
    size, *times = state[:3]
    if size < LARGE or time.time() - max(times) / 1e9 < SETTLED:
        return sha256_file(path)
    return known("hash", {"path": os.fspath(path), "state": state}, lambda: sha256_file(path))


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of all files in a folder and below it, without hidden ones; from the cache while no file's
    name, size, times and inode change. Links are followed.
    """
    files = _files_below(folder)
    states = {}
    for name, path in files.items():
        there = path.stat()
        states[name] = (there.st_size, there.st_mtime_ns, there.st_ctime_ns, there.st_ino, there.st_dev)

    def read() -> str:
        with ThreadPoolExecutor(8) as pool:  # hashing releases the interpreter's lock
            return sha256_json(dict(zip(files, pool.map(sha256_file, files.values()), strict=True)))

    newest = max((time_ns for state in states.values() for time_ns in state[1:3]), default=0)
    if time.time() - newest / 1e9 < SETTLED:
        return read()
    return known("folder", {"path": os.fspath(folder.resolve()), "states": sha256_json(states)}, read)


def _files_below(folder: Path) -> dict[str, Path]:
    """Relative path -> file, sorted; without hidden files and folders. A folder that several links lead to is read once."""
    files: dict[str, Path] = {}
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        inner, folders[:] = sorted(folders), []
        for name in inner:
            real = os.path.realpath(os.path.join(place, name))  # noqa: PTH118
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                folders.append(name)
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path
    return dict(sorted(files.items()))


def settings_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a checkpoint's folder and its subfolders that is not weights, by relative path."""
    files = sorted(
        path for path in (*folder.glob("*"), *folder.glob("*/*")) if path.suffix in _SETTINGS and path.is_file()
    )
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
