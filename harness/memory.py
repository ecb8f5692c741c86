"""Memory: given back to the system between the long steps of one process, and amounts of it in words."""

from __future__ import annotations

import ctypes
import gc


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


def written_bytes(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
