"""The counts of many items in few bytes: enough for intervals, differences and matched lengths, without the items' texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.core.stats import Counts
from harness.core.types import SampleScore

_BLOCK = 1000
"""Number of items that are held as Python numbers at once."""


@dataclass(frozen=True)
class ItemCounts:
    """Counts of scored items.

    Attributes:
        items: ids, [items].
        clusters: the images, in order of first occurrence.
        groups: each item's place in `clusters`, [items], int32.
        names: names of the counts, in order of first occurrence.
        matrix: [items, names]; integers in the smallest sufficient type, else float64.
    """

    items: tuple[str, ...]
    clusters: tuple[str, ...]
    groups: np.ndarray
    names: tuple[str, ...]
    matrix: np.ndarray

    @classmethod
    def of(cls, scores: Iterable[SampleScore]) -> ItemCounts:
        """The counts of the scored items."""
        table = ItemTable()
        for score in scores:
            if score.unscored is None:
                table.add(score.item_id, score.group, score.counts)
        return table.finish()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all fields."""
        digest = hashlib.sha256(json.dumps([self.items, self.clusters, self.names, self.matrix.dtype.str]).encode())
        for array in (self.groups, self.matrix):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @cached_property
    def items_digest(self) -> str:
        """SHA-256 of the items and their images, independent of their order."""
        return hashlib.sha256(json.dumps(sorted(self.images_of.items())).encode()).hexdigest()

    @property
    def images_of(self) -> dict[str, str]:
        """Item -> the image that it is about."""
        return {item: self.clusters[group] for item, group in zip(self.items, self.groups.tolist(), strict=True)}

    @property
    def size(self) -> int:
        """Number of items."""
        return len(self.items)

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.clusters)

    @cached_property
    def totals(self) -> dict[str, float]:
        """Sums of every count, and "n"."""
        return {name: float(value) for name, value in self.counts.totals().items()}

    def load(self) -> ItemCounts:
        """Return self; the same method of `harness.records.sums.Sums` loads them from disk."""
        return self

    @property
    def counts(self) -> Counts:
        """Sums by image."""
        return self._summed(np.arange(len(self.items)), self.clusters, self.groups)

    def of_items(self, items: Sequence[str]) -> Counts:
        """The sums of some of the items, with images in order of first occurrence in them."""
        place = {item: number for number, item in enumerate(self.items)}
        rows = np.array([place[item] for item in items], int)
        old, first, inverse = np.unique(self.groups[rows], return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), int)
        rank[order] = np.arange(len(order))
        return self._summed(rows, tuple(self.clusters[number] for number in old[order]), rank[inverse])

    def _summed(self, rows: np.ndarray, clusters: tuple[str, ...], groups: np.ndarray) -> Counts:
        matrix = np.zeros((len(clusters), len(self.names) + 1))
        if self.names:
            np.add.at(matrix[:, :-1], groups, self.matrix[rows].astype(float))
        matrix[:, -1] = np.bincount(groups, minlength=len(clusters))
        return Counts((*self.names, "n"), clusters, matrix)


class ItemTable:
    """Collects items one by one in few bytes."""

    def __init__(self) -> None:
        self._items: dict[str, None] = {}
        self._clusters: dict[str, int] = {}
        self._names: tuple[str, ...] = ()
        self._groups: list[int] = []
        self._rows: list[tuple[float, ...]] = []
        self._blocks: list[np.ndarray] = []

    def __contains__(self, item: str) -> bool:
        return item in self._items

    def add(self, item: str, group: str, counts: Mapping[str, float]) -> None:
        """Add an item, which must be new."""
        self._items[item] = None
        self._groups.append(self._clusters.setdefault(group, len(self._clusters)))
        if tuple(counts) == self._names:  # the usual case: nearly all items of a benchmark have the same names
            row = tuple(counts.values())
        else:
            if new := [name for name in counts if name not in self._names]:
                self._flush()  # rows added before have fewer names
                self._names = (*self._names, *new)
            row = tuple(counts.get(name, 0.0) for name in self._names)
        self._rows.append(row)
        if len(self._rows) >= _BLOCK:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._blocks.append(compact(np.array(self._rows, float)))
            self._rows = []

    def finish(self) -> ItemCounts:
        """Return all items."""
        self._flush()
        matrix = np.zeros((len(self._items), len(self._names)))
        begin = 0
        for block in self._blocks:
            matrix[begin : begin + len(block), : block.shape[1]] = block
            begin += len(block)
        groups = np.array(self._groups, np.int32)
        return ItemCounts(tuple(self._items), tuple(self._clusters), groups, self._names, compact(matrix))


def compact(values: np.ndarray) -> np.ndarray:
    """The same numbers in the smallest sufficient integer type if they are whole and not negative; else as float64."""
    if not values.size:
        return values.astype(np.uint8)
    low, high = values.min(), values.max()
    for kind in (np.uint8, np.uint16, np.uint32):
        if low >= 0 and high <= np.iinfo(kind).max:
            small = values.astype(kind)
            return small if np.array_equal(small, values) else values
    return values
