"""Cached counts of item files: enough for a leaderboard of hundreds of runs, without reading their texts.

An item file of a whole suite has tens of megabytes, mostly texts that no figure depends on. The rest is stored in the cache folder under
the file's identity (device, inode, size, times of the last changes), so a rewritten file is read again.
"""

from __future__ import annotations

import functools
import json
import os
import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import BadInputError
from harness.core.files import atomic_path, sha256_json, to_cache
from harness.core.paths import cache_folder
from harness.core.reading import open_binary
from harness.records.counts import ItemCounts, ItemTable, compact
from harness.records.item_files import item_row
from harness.records.matched import Described, Places, PlacesTable

_FORMAT = 2
_SETTLED_NS = 50_000_000
"""Minimum age in nanoseconds of a file's last change for caching; a younger file could change again with the same time stamp."""
_BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
_HELD = 12
"""Number of files whose counts are in memory at once, some megabytes each."""


@dataclass(frozen=True)
class Sums:
    """Totals of an item file, and the location of its counts by item.

    Attributes:
        path: the item file.
        size: number of scored items.
        images: number of images.
        totals: sum of every count, and "n".
        digest: of the counts by item, see `ItemCounts`; `items_digest`: of which items and images these are.
        kept: file in the cache with the rest; None if it could not be stored.
    """

    path: Path
    size: int
    images: int
    totals: Mapping[str, float]
    digest: str
    items_digest: str
    kept: Path | None

    def load(self) -> ItemCounts:
        """The counts by item."""
        return self.described().items

    def described(self) -> Described:
        """The counts by item with the positions of mentions."""
        return _held(self.path, self.kept, self.digest)


def read_sums(path: Path) -> Sums:
    """The sums of an item file, from the cache or by reading it.

    Raises:
        BadInputError: the file cannot be read, or a line is not an item's row.
    """
    before = _identity(path)
    kept = _folder() / f"{sha256_json([_FORMAT, before])}.npz"
    try:
        with np.load(kept, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
        return Sums(path, kept=kept, **about)
    except _BROKEN:  # not in the cache, or damaged there
        pass
    settled = time.time_ns() - max(before[3:]) > _SETTLED_NS
    return _keep(path, kept, _read(path), keep=settled)


def keep_sums(path: Path) -> None:
    """Cache the sums of an item file that this process has just written, so that it need not be read."""
    _keep(path, _folder() / f"{sha256_json([_FORMAT, _identity(path)])}.npz", _read(path), keep=True)


def _identity(path: Path) -> list[int]:
    with open_binary(path, "items") as stream:
        found = os.fstat(stream.fileno())
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _folder() -> Path:
    return cache_folder() / "scores" / "items"


def _read(path: Path) -> Described:
    table, places = ItemTable(), PlacesTable()
    with open_binary(path, "items") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            row = item_row(line, number, path, details=False)
            if row.unscored is not None:
                continue
            if row.item in table:
                raise BadInputError(f"the item {row.item!r} appears twice in the items", where=f"{path}:{number}")
            table.add(row.item, row.group, row.counts)
            places.add(row.text, [(piece.verdict, piece.span) for piece in row.evidence])
    return Described(table.finish(), places.finish())


def _keep(path: Path, target: Path, described: Described, *, keep: bool) -> Sums:
    items = described.items
    about: dict[str, Any] = {
        "size": items.size,
        "images": items.images,
        "totals": items.totals,
        "digest": items.digest,
        "items_digest": items.items_digest,
    }
    kept: Path | None = None
    if keep:
        with to_cache(target):
            with atomic_path(target) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, about=_text(about), **_arrays(described))  # type: ignore[arg-type]
            kept = target
    return Sums(path, kept=kept, **about)


def _arrays(found: Described) -> dict[str, np.ndarray]:
    items, places = found.items, found.places
    return {
        "names": _text([items.items, items.clusters, items.names, places.unknown]),
        "groups": compact(items.groups),
        "matrix": items.matrix,
        "words": places.words,
        "mentions": places.mentions,
    }


def _text(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


@functools.lru_cache(maxsize=_HELD)
def _held(path: Path, kept: Path | None, digest: str) -> Described:
    """Load from the cache, or read the file again; its digest must be unchanged.

    Raises:
        BadInputError: the file was changed in the meantime.
    """
    described: Described | None = None
    if kept is not None:
        try:
            with np.load(kept, allow_pickle=False) as stored:
                items, clusters, names, unknown = json.loads(stored["names"].tobytes())
                groups = stored["groups"].astype(np.int32)
                counts = ItemCounts(tuple(items), tuple(clusters), groups, tuple(names), stored["matrix"])
                described = Described(counts, Places(stored["words"], stored["mentions"], unknown))
        except _BROKEN:
            described = None
    if described is None or described.items.digest != digest:
        described = _read(path)
    if described.items.digest != digest:
        raise BadInputError(
            "the items were changed while they were read", where=str(path), remedy="run the command again"
        )
    return described
