"""The counts of an item file, read once and kept: what a leaderboard of hundreds of runs is made of, without their texts.

An item file of a whole suite has tens of megabytes, most of them texts that no figure depends on. What is left of it is in the cache
folder under the file's identity (device, inode, size, times of the last changes), so a file that was written again is read again.
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
"""Within so many nanoseconds of its last change a file could change again with the same time, so what it holds is not kept."""
_BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
_HELD = 12
"""Files whose counts are held in memory at once, some megabytes each."""


@dataclass(frozen=True)
class Sums:
    """What is known of an item file without its counts by item, and where these are.

    Attributes:
        path: the item file.
        size: scored items.
        images: that they are about.
        totals: of every count, and "n".
        digest: of the counts by item, see `ItemCounts`; `items_digest`: of which items and images these are.
        kept: where the rest of it is kept; None where it could not be.
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
        """The same with the places of mentions."""
        return _held(self.path, self.kept, self.digest)


def read_sums(path: Path) -> Sums:
    """What an item file holds, from what was kept of it or by reading it.

    Raises:
        BadInputError: the file cannot be read, or a line is not an item's row.
    """
    before = _identity(path)
    kept = _folder() / f"{sha256_json([_FORMAT, before])}.npz"
    try:
        with np.load(kept, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
        return Sums(path, kept=kept, **about)
    except _BROKEN:  # not kept, or what was kept is broken
        pass
    settled = time.time_ns() - max(before[3:]) > _SETTLED_NS
    return _keep(path, kept, _read(path), keep=settled)


def keep_sums(path: Path) -> None:
    """Keep what an item file holds that this process has written just now, so that nobody need read it."""
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
            row = item_row(line, number, path)
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
    """What was kept, or the file read again; it must be what it was when its digest was taken.

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
