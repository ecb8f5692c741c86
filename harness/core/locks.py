"""A folder has one writer at a time: a lock that is held while a process writes, and that a killed process gives back by dying."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from harness.core.disk import make_folder
from harness.core.errors import BadInputError
from harness.core.removal import discard

logger = logging.getLogger(__name__)

_PATIENCE_S = 0.2
"""A process that only looks whether a lock is held has it for a moment."""


class BusyError(BadInputError):
    """Another process is writing to the same place."""


@contextlib.contextmanager
def writing(lock: Path, what: str, where: Path, *, keep: bool = True) -> Iterator[None]:
    """Hold a lock for the block.

    The operating system holds it for the process, so it ends with the process however that ends, and it holds between machines on
    NFS. On a file system that knows no locks a file with the process's number stands for it.

    Args:
        lock: the lock's file; its folder is made.
        what: what is written ("the run"), for the message.
        where: the place that is written to, for the message.
        keep: leave the lock's file where it is; else it is removed at the end, as beside a user's own files.

    Raises:
        BusyError: another process holds it; which one, where that can be said.
    """
    make_folder(lock.parent)
    held = FileLock(lock)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            held.acquire(timeout=_PATIENCE_S, poll_interval=0.02)
        except Timeout:
            raise busy(lock, what, where) from None
    if said:
        logger.warning(f"{where}: the file system does not support locks; this file is used instead: {lock}")
    try:
        if not isinstance(held, SoftFileLock):
            _say_who(lock)
        yield
    finally:
        if not keep:  # while it is still held: who waits for it sees that the file is gone, and makes another one
            discard(lock, within=lock.parent)
        held.release()


def busy(lock: Path, what: str, where: Path) -> BusyError:
    """The error that says who holds a lock; arguments as of `writing`."""
    return BusyError(
        f"another process is writing {what}{_holder(lock)}", where=str(where), remedy="wait for it, or stop it"
    )


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock at this moment."""
    if not lock.exists():
        return False
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # not ours to write, or a read-only place: nobody writes to it
        return False
    held.release()
    return False


def _say_who(lock: Path) -> None:
    """Write into the lock's file who holds it."""
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["harness", *sys.argv[1:2]]),
    }
    lock.write_text(json.dumps(about) + "\n", encoding="utf-8")


def _holder(lock: Path) -> str:
    """Who holds a lock, in words that follow "another process"; "" where the file does not say."""
    try:
        about = json.loads(lock.read_text(encoding="utf-8"))
        return f": process {about['pid']} on {about['host']}, `{about['command']}`, since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
