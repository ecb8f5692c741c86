"""Temporary files and folders beside a target, each locked by its writer as long as that runs.

A killed writer leaves its temporary file behind, and the operating system releases the lock. So the next writer to the same folder
recognises what will never be completed, and removes it. Without locks in the file system, nothing is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.core.removal import REMOVED, discard

SUFFIX = ".harness-tmp"
"""Suffix of every temporary name, so that no file of the user is mistaken for a temporary one."""
_LONGEST = 60
"""Maximum number of characters of the target's name in a temporary name; file systems allow 255 bytes."""
_TEMPORARY = re.compile(rf"\..+{re.escape(SUFFIX)}")
_HIDDEN = re.compile(rf"\.(?P<target>.+)\.[0-9a-f]{{8}}{re.escape(REMOVED)}")
_swept: set[Path] = set()


@contextlib.contextmanager
def temporary_file(target: Path) -> Iterator[Path]:
    """An empty file beside `target`, locked for the block. The block moves or removes it.

    Raises:
        OSError: it cannot be made.
    """
    sweep_once(target.parent)
    while True:
        handle, name = tempfile.mkstemp(prefix=_prefix(target), suffix=SUFFIX, dir=target.parent)
        if _lock(handle) and _is_still(Path(name), handle):
            break
        os.close(handle)  # another process removed it as left over before it was locked
    try:
        yield Path(name)
    finally:
        os.close(handle)


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """The same, an empty folder."""
    sweep_once(target.parent)
    while True:
        path = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=SUFFIX, dir=target.parent))
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        if _lock(handle) and _is_still(path, handle):
            break
        os.close(handle)
    try:
        yield path
    finally:
        os.close(handle)


def left_overs(folder: Path) -> list[Path]:
    """What killed writers left in a folder: unlocked temporary files and folders, and folders that were being removed.

    A folder that was being replaced when its writer was killed is not included: it may be the only copy.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []
    present, left = set(names), []
    for name in names:
        hidden = _HIDDEN.fullmatch(name)
        unfinished = bool(_TEMPORARY.fullmatch(hidden["target"] if hidden else name))
        if (unfinished or (hidden and hidden["target"] in present)) and is_unheld(folder / name):
            left.append(folder / name)
    return left


def is_unheld(path: Path) -> bool:
    """Whether no writer holds a temporary file or folder; False if that cannot be determined."""
    try:
        handle = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def sweep_once(folder: Path) -> None:
    """Remove what killed writers left in a folder; each process does this once per folder, because a cache may contain a hundred
    thousand files."""
    place = folder.absolute()
    if place in _swept:
        return
    _swept.add(place)
    for path in left_overs(folder):
        discard(path, within=folder)


def _prefix(target: Path) -> str:
    return f".{target.name[:_LONGEST]}."


def _lock(handle: int) -> bool:
    """Lock an open file or folder; False if another process holds it. Without locks in the file system, it counts as locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_still(path: Path, handle: int) -> bool:
    """Whether a path still leads to the opened file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
