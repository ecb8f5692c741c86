"""Memory: returning it to the system between the long steps of a process, and writing amounts of it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Constants of glibc's malloc.h."""


def give_back() -> None:
    """Collect garbage, and let glibc return free memory to the system.

    Training frees many blocks of middling size, which glibc keeps: one or two gigabytes that the engine's process then lacks. With
    another C library, only Python's garbage collection runs.
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    trim(0)


def reuse_large_blocks() -> None:
    """Let glibc keep freed blocks of any size for the next ones, until `give_back`.

    By default glibc returns blocks of 32 MB or more at once, and the system has to clear fresh pages for the next one; at 3,200 tokens
    per row that took a third of a training step. With another C library, nothing changes.
    """
    with contextlib.suppress(AttributeError, OSError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)


def available(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process could still use: the free memory of the machine, or of the container or job if it has a limit.

    Args:
        root: where the kernel shows control groups; membership: the file that says to which of them this process belongs. Only tests set
        these.
    """
    import psutil

    return min([int(psutil.virtual_memory().available), *_left_of_groups(root, membership)])


def _left_of_groups(root: Path, membership: Path) -> Iterator[int]:
    """The unused part of the limit of each control group of this process, version 2 or 1; nothing if there are no limits."""
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
        # In a container the path may be the host's, of which only the top exists.
        for group in dict.fromkeys([folder, *folder.parents]):
            if group.is_relative_to(top):
                with contextlib.suppress(OSError, ValueError):  # a group without this limit: "max", or no such file
                    limit, used = (int((group / name).read_text()) for name in names)
                    yield max(0, limit - used + _cached(group / "memory.stat"))


def _cached(stat: Path) -> int:
    """Bytes of cached files, which the kernel frees when memory is short."""
    with contextlib.suppress(OSError, ValueError):
        values = dict(line.split() for line in stat.read_text().splitlines())
        return int(values.get("total_inactive_file", values.get("inactive_file", 0)))
    return 0


def written_bytes(count: float) -> str:
    """Bytes as readable text, such as "1.5 GB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
