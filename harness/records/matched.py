"""Hallucination at matched length: shorter answers contain fewer hallucinations, so all checkpoints are compared on equally many words.

Every item's descriptions are cut to the words of the shortest one among the compared checkpoints, and objects are counted in the rest.
Nothing is parsed again: the positions of mentions were stored as evidence when the descriptions were scored.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.core.declared import MatchedForm
from harness.records.counts import ItemCounts

_WORD = re.compile(r"\S+")
_UNKNOWN = 0.02
_NEVER = np.iinfo(np.int32).max
"""Value for a mention that ends after the last word: it is in no cut text."""
Piece = tuple[str, tuple[int, int] | None]
"""A mention's verdict and its span in the text."""


@dataclass(frozen=True)
class Places:
    """The lengths of one checkpoint's descriptions, and after how many words each mention is complete.

    Attributes:
        words: length of each description in words, [items], int32.
        mentions: for each mention [item's number, words up to its end (0 if its position is unknown), whether it is hallucinated],
            [mentions, 3], int32.
        unknown: number of mentions whose position is unknown.
    """

    words: np.ndarray
    mentions: np.ndarray
    unknown: int


class PlacesTable:
    """Collects the descriptions of a checkpoint one by one."""

    def __init__(self) -> None:
        self._words: list[int] = []
        self._mentions: list[tuple[int, int, bool]] = []
        self._unknown = 0

    def add(self, text: str, pieces: Sequence[Piece]) -> None:
        """Add a description with its evidence; missed objects are not mentions."""
        number = len(self._words)
        ends = [word.end() for word in _WORD.finditer(text)]
        self._words.append(len(ends))
        for verdict, span in pieces:
            if verdict == "missed":
                continue
            self._unknown += span is None
            self._mentions.append((number, _needed(span, ends), verdict == "hallucinated"))

    def finish(self) -> Places:
        """All of them."""
        mentions = np.array(self._mentions, np.int32).reshape(-1, 3)
        return Places(np.array(self._words, np.int32), mentions, self._unknown)


def _needed(span: tuple[int, int] | None, ends: Sequence[int]) -> int:
    """After how many words a mention is complete; a mention without a position counts as first."""
    if span is None or span[1] <= 0:
        return 0
    place = bisect_left(ends, span[1])
    return place + 1 if place < len(ends) else int(_NEVER)


@dataclass(frozen=True)
class Described:
    """One checkpoint's descriptions: their items, and the positions of mentions."""

    items: ItemCounts
    places: Places


@dataclass(frozen=True)
class Matched:
    """Every checkpoint's counts after the cut, see `MatchedRates`, and the mean number of words after the cut."""

    counts: Mapping[str, ItemCounts]
    words: float


def cut(checkpoints: Mapping[str, Described]) -> Matched | None:
    """Cut the answers of several checkpoints to matched length.

    Args:
        checkpoints: by name.

    Returns:
        None if fewer than two checkpoints have the same items, or more than one mention in fifty has no position. Otherwise mentions
        without a position count as first.
    """
    first = next(iter(checkpoints.values()), None)
    if first is None or len(checkpoints) < 2 or not first.items.items:
        return None
    if any(one.items.items_digest != first.items.items_digest for one in checkpoints.values()):
        return None
    mentions = sum(len(one.places.mentions) for one in checkpoints.values())
    if sum(one.places.unknown for one in checkpoints.values()) > mentions * _UNKNOWN:
        return None
    orders = {name: _order(first.items.items, one.items.items) for name, one in checkpoints.items()}
    words = first.places.words.copy()
    for name, one in checkpoints.items():
        words = np.minimum(words, one.places.words[orders[name]])
    counts = {name: _cut(one, words, orders[name]) for name, one in checkpoints.items()}
    return Matched(counts, float(np.mean(words)))


def _order(wanted: Sequence[str], items: Sequence[str]) -> np.ndarray:
    """The position of each wanted item among others, [items]."""
    if wanted == items:
        return np.arange(len(items))
    place = {item: number for number, item in enumerate(items)}
    return np.array([place[item] for item in wanted], int)


def _cut(described: Described, words: np.ndarray, order: np.ndarray) -> ItemCounts:
    """The counts of the first `words` words of each item; `order` maps them to the checkpoint's items."""
    size = len(order)
    words_of = np.empty(size, np.int64)
    words_of[order] = words
    item, needed, wrong = described.places.mentions.T
    said = needed <= words_of[item]
    mentions = np.bincount(item[said], minlength=size)
    false = np.bincount(item[said & (wrong > 0)], minlength=size)
    matrix = np.stack([np.ones(size, int), false > 0, mentions, false], axis=1).astype(np.uint32)
    return ItemCounts(described.items.items, described.items.clusters, described.items.groups, _NAMES, matrix)


_NAMES = ("responses", "hallucinated", "mentions", "false")


@dataclass(frozen=True)
class MatchedRates:
    """Computes a suite's matched metrics from counts after the cut."""

    form: MatchedForm

    def aggregate(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """Both rates by metric; NaN where undefined."""
        return {
            self.form.responses.id: _ratio(totals["hallucinated"], totals["responses"]),
            self.form.mentions.id: _ratio(totals["false"], totals["mentions"]),
        }


def _ratio(above: Any, below: Any) -> Any:
    below = np.asarray(below, float)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)
