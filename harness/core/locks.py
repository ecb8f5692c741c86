"""A folder has one writer at a time: a lock that is held while a process writes, and that the operating system releases when the process
dies."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from harness.core.disk import make_folder
from harness.core.errors import BadInputError
from harness.core.removal import discard

logger = logging.getLogger(__name__)

_PATIENCE_S = 0.2
"""A process that only checks whether a lock is held takes it for a moment."""
_POLL_S = 0.2
"""Time between the attempts of a process that waits for a lock."""
_WARNINGS = threading.Lock()
"""Held while warnings are recorded, which changes the state of all threads."""


class BusyError(BadInputError):
    """Another process is writing to the same place."""


@contextlib.contextmanager
def writing(lock: Path, what: str, where: Path, *, keep: bool = True, wait: bool = False) -> Iterator[None]:
    """Hold a lock for the block.

    The operating system releases the lock when the process ends, for whatever reason; on NFS it works between machines. On a file system
    without locks, a file with the process's number is used instead.

    Args:
        lock: the lock's file; its folder is made.
        what: what is written ("the run"), for the message.
        where: the place that is written to, for the message.
        keep: keep the lock's file at the end; False removes it, for locks next to a user's own files.
        wait: wait for another process that holds it, as it makes the same in a cache; the caller then looks whether it is made.

    Raises:
        BusyError: another process holds it, and `wait` is not set; the message says which one, if that is known.
    """
    make_folder(lock.parent)
    held = FileLock(lock)
    try:
        supported = _acquire(held, _PATIENCE_S)
    except Timeout:
        if not wait:
            raise busy(lock, what, where) from None
        logger.info(f"waiting: another process is writing {what}{_holder(lock)}")
        supported = _acquire_sometime(held)
    if not supported:
        logger.warning(f"{where}: the file system does not support locks; this file is used instead: {lock}")
    try:
        if not isinstance(held, SoftFileLock):
            _say_who(lock)
        yield
    finally:
        if not keep:  # removed while it is still held: a process that waits for it notices and makes a new file
            discard(lock, within=lock.parent)
        held.release()


def _acquire(held: FileLock, timeout_s: float) -> bool:
    """Acquire a lock within a time, and return whether the file system supports locks.

    Raises:
        Timeout: another process holds it.
    """
    with _WARNINGS, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        held.acquire(timeout=timeout_s, poll_interval=0.02)
    return not said


def _acquire_sometime(held: FileLock) -> bool:
    """Like `_acquire`, without a limit of time. Between the attempts, other threads can acquire their locks."""
    while True:
        with contextlib.suppress(Timeout):
            return _acquire(held, 0)
        time.sleep(_POLL_S)


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
    except OSError:  # no write permission, or read-only: no process of ours writes there
        return False
    held.release()
    return False


def _say_who(lock: Path) -> None:
    """Write the holder of the lock into its file."""
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
