"""Checking, before anything is written, that the disks have enough room."""

from __future__ import annotations

import errno
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import BadInputError
from harness.core.memory import written_bytes


def nearest_existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def check_place(folder: Path) -> None:
    """Check that a folder exists or could be made, as far as that can be known without trying.

    Raises:
        BadInputError: a file or a broken link has its name.
        OSError: links form a loop, a name is too long, or a folder may not be read.
    """
    for above in (folder, *folder.parents):
        if above.is_symlink() and not above.exists():
            if _is_loop(above):
                above.stat()  # raises
            raise BadInputError(f"'{above}' is a broken link", where=str(folder), remedy="remove or fix the link")
        try:
            above.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if above.is_dir():
            return
        raise BadInputError(
            f"'{above}' is a file, but a folder is needed",
            where=str(folder),
            remedy="move the file away, or choose another folder (--results, -o, HARNESS_CACHE)",
        )


def _is_loop(link: Path) -> bool:
    """Whether a link leads to itself."""
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def make_folder(path: Path) -> None:
    """Make a folder and its parents if they do not exist.

    Raises:
        BadInputError: as of `check_place`.
        OSError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        check_place(path)
        raise
    except FileNotFoundError:
        check_place(path)
        raise PermissionError(errno.EACCES, "a folder cannot be created here", str(path)) from None


def need(rooms: Sequence[tuple[Path, int, str]]) -> None:
    """Make sure that there is room for everything together, disk by disk.

    Args:
        rooms: (where it goes, bytes, what it is).

    Raises:
        BadInputError: a disk has less room; the message names every part.
    """
    disks: dict[int, list[tuple[Path, int, str]]] = defaultdict(list)
    for path, size, what in rooms:
        if size > 0:
            disks[nearest_existing(path).stat().st_dev].append((nearest_existing(path), size, what))
    for parts in disks.values():
        place, wanted = parts[0][0], sum(size for _, size, _ in parts)
        usage = shutil.disk_usage(place)
        if (
            usage.total and (free := usage.free) < wanted
        ):  # no size at all: not a disk; writing there will raise its own error
            detail = ", ".join(f"{what} {written_bytes(size)}" for _, size, what in parts)
            raise BadInputError(
                f"the disk is too small: {written_bytes(wanted)} are needed ({detail}), {written_bytes(free)} are free",
                where=str(place),
                remedy="free space, or choose folders on another disk: --results; HF_HOME for the hub's files; HARNESS_CACHE",
            )
