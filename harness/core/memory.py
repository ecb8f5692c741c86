"""Memory: given back to the system between the long steps of one process, and amounts of it in words."""

from __future__ import annotations

import contextlib
import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""glibc's names for them, from malloc.h."""


def give_back() -> None:
    """Free what nothing refers to, and let glibc return it.

    Training frees many blocks of middling size, which glibc keeps for itself: a gigabyte or two that the engine, a process of its
    own, then has to do without. Where the C library is another one, only Python's own collection is done.
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    trim(0)


def reuse_large_blocks() -> None:
    """Let glibc keep freed blocks of any size for the next ones, until `give_back`.

    By itself it returns blocks of 32 MB or more to the system at once, and the next one is made of fresh pages, which the system
    has to clear: at 3,200 tokens a row that was a third of a training step. Where the C library is another one, nothing is changed.
    """
    with contextlib.suppress(AttributeError, OSError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)


def written_bytes(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
