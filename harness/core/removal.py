"""The only place where files and folders are removed or moved over others (a test checks this).

Every call names the caller's folder: nothing outside of it is touched, and a link is removed itself, never its target. A folder gets a
hidden name before it is emptied, so that a kill leaves nothing that looks like a complete folder.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import BadInputError, HarnessError

REPLACED = ".replaced"
"""Folder next to what was replaced; it contains the replaced files and folders under their names with a time stamp."""

REMOVED = ".removed"
"""Ends the hidden name of a folder that is being emptied."""


def remove(path: Path, *, within: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing happens if it does not exist.

    Args:
        path: what is removed.
        within: the caller's own folder; `path` must be inside it, and not be it.

    Raises:
        HarnessError: `path` is not inside `within`.
        OSError: it cannot be removed.
    """
    path = _inside(path, within)
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        with _hidden(path) as hidden:
            shutil.rmtree(hidden)


def discard(path: Path, *, within: Path) -> None:
    """Like `remove`, for clean-up after an error: what cannot be removed stays, and the original error is not hidden."""
    with contextlib.suppress(OSError):
        remove(path, within=within)


def move(source: Path, target: Path, *, within: Path) -> None:
    """Give a file or a folder another name on the same file system. A file that has the name is replaced, a folder is not.

    Args:
        source: what is moved.
        target: where it goes.
        within: the caller's own folder; both must be inside it.

    Raises:
        HarnessError: one of the two is not inside `within`.
        OSError: it cannot be moved.
    """
    source, target = _inside(source, within), _inside(target, within)
    if target.is_dir() and not target.is_symlink() and any(target.iterdir()):
        raise HarnessError(f"the folder '{target.name}' already exists", where=str(target))
    source.replace(target)


def swap(source: Path, target: Path, *, within: Path) -> None:
    """Put a complete folder at a path; a folder that was there is removed afterwards.

    Arguments and errors are those of `move`.
    """
    source, target = _inside(source, within), _inside(target, within)
    if target.is_symlink() or not target.exists():
        remove(target, within=within)
        source.rename(target)
        return
    with _hidden(target) as hidden:
        try:
            source.rename(target)
        except BaseException:
            hidden.rename(target)
            raise
        shutil.rmtree(hidden)


def put_aside(path: Path, *, within: Path) -> Path:
    """Move what will be replaced into `REPLACED` next to it, and return its new path.

    Raises:
        HarnessError: `path` is not inside `within`.
        OSError: it cannot be moved.
    """
    path = _inside(path, within)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%fZ")
    kept = path.with_name(REPLACED) / f"{path.name}.{stamp}"
    kept.parent.mkdir(exist_ok=True)
    path.rename(kept)
    return kept


def aside_name(kept: Path) -> str:
    """The name that something had before it was replaced."""
    return kept.name.rpartition(".")[0]


@contextlib.contextmanager
def _hidden(path: Path) -> Iterator[Path]:
    """Give a folder that will be removed a hidden name next to it, and lock it, so that no other process removes it as left over."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path.rename(path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:8]}{REMOVED}"))
    finally:
        os.close(handle)


def _inside(path: Path, within: Path) -> Path:
    """`path` as absolute path with the links in its parents followed; if it is a link itself, that is not followed.

    Raises:
        HarnessError: it is not inside `within`.
    """
    if path.name in ("", "..") or path == Path(path.anchor):
        raise BadInputError(f"'{path}' is not the name of a file or folder inside another one", where=str(within))
    place, owned = path.parent.resolve() / path.name, within.resolve()
    if place == owned or not place.is_relative_to(owned):
        raise HarnessError(
            f"'{path}' is not inside '{within}': so it is neither removed nor moved",
            where=str(place),
            remedy="check where the links in this path lead",
        )
    return place
