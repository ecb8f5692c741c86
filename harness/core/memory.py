"""Memory: given back to the system between the long steps of one process, and amounts of it in words."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

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


def available(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process could still take: what is free of the machine's memory, or of the container's or job's share of it.

    Args:
        root: where the kernel shows control groups; membership: which of them this process belongs to. Only tests name others.
    """
    import psutil

    return min([int(psutil.virtual_memory().available), *_left_of_groups(root, membership)])


def _left_of_groups(root: Path, membership: Path) -> Iterator[int]:
    """What is left of the limit of each control group that this process is in, version 2 or 1; none where there are no limits."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, place in (line for line in lines if len(line) == 3):
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        names = (
            ("memory.max", "memory.current") if not controllers else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        folder = top / place.strip("/")
        # Inside of a container the path may be the host's, of which only the top is there.
        for group in dict.fromkeys([folder, *folder.parents]):
            if group.is_relative_to(top):
                with contextlib.suppress(OSError, ValueError):  # a group without this limit: "max", or no such file
                    limit, used = (int((group / name).read_text()) for name in names)
                    yield max(0, limit - used + _cached(group / "memory.stat"))


def _cached(stat: Path) -> int:
    """Bytes of files in memory that the kernel gives up when memory is short."""
    with contextlib.suppress(OSError, ValueError):
        values = dict(line.split() for line in stat.read_text().splitlines())
        return int(values.get("total_inactive_file", values.get("inactive_file", 0)))
    return 0


def written_bytes(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
