"""Whether the disks have room for what will be written, asked before it is."""

from __future__ import annotations

import errno
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from harness.errors import BadInputError
from harness.memory import written_bytes


def there(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def make_folder(path: Path) -> None:
    """Make a folder with those above it, where it is not there.

    Raises:
        OSError: it cannot be made; a reason that fits, also where a file is in its place, or the file system makes no folders.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
    except FileNotFoundError:
        raise PermissionError(errno.EACCES, "no folder can be made here", str(path)) from None


def need(rooms: Sequence[tuple[Path, int, str]]) -> None:
    """Make sure that there is room for everything together, disk by disk.

    Args:
        rooms: (where it goes, bytes, what it is).

    Raises:
        BadInputError: a disk has less; with what each part of it takes.
    """
    disks: dict[int, list[tuple[Path, int, str]]] = defaultdict(list)
    for path, size, what in rooms:
        if size > 0:
            disks[there(path).stat().st_dev].append((there(path), size, what))
    for parts in disks.values():
        place, wanted = parts[0][0], sum(size for _, size, _ in parts)
        if (free := shutil.disk_usage(place).free) < wanted:
            detail = ", ".join(f"{what} {written_bytes(size)}" for _, size, what in parts)
            raise BadInputError(
                f"the disk is too small: {written_bytes(wanted)} are needed ({detail}), {written_bytes(free)} are free",
                where=str(place),
                remedy="make room, or name folders on another disk: --results; HF_HOME for the hub's files; HARNESS_CACHE",
            )
