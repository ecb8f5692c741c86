"""CHAIR at matched length: a checkpoint that says less hallucinates less, so all are compared on equally many words.

Every item's descriptions are cut to the words of the shortest one among the compared checkpoints, and CHAIR is counted on what is
left. Nothing is parsed again: the mentions' places were kept as evidence when the descriptions were scored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from harness.types import SampleScore

_WORD = re.compile(r"\S+")
_UNKNOWN = 0.02
Rows = Mapping[str, Mapping[str, Any]]
"""Item id -> its row of an item file."""


@dataclass(frozen=True)
class Matched:
    """Every checkpoint's counts after the cut, see `rates`, and how many words were left on average."""

    scores: Mapping[str, Sequence[SampleScore]]
    words: float


def cut(checkpoints: Mapping[str, Rows]) -> Matched | None:
    """Cut the answers of several checkpoints to matched length.

    Args:
        checkpoints: name -> rows; the mentions' places are in `evidence`.

    Returns:
        None where fewer than two checkpoints have the same items, or the places of more than one mention in fifty are not known.
        The others without a place count as if they came first.
    """
    items = [set(rows) for rows in checkpoints.values()]
    if len(items) < 2 or not items[0] or any(other != items[0] for other in items):
        return None
    places = [
        piece["span"]
        for rows in checkpoints.values()
        for row in rows.values()
        for piece in row["evidence"]
        if piece["verdict"] != "missed"
    ]
    if places.count(None) > len(places) * _UNKNOWN:
        return None
    words = {
        item: min(sum(1 for _ in _WORD.finditer(rows[item]["text"])) for rows in checkpoints.values())
        for item in items[0]
    }
    scores = {name: [_cut(rows[item], words[item]) for item in rows] for name, rows in checkpoints.items()}
    return Matched(scores, float(np.mean(list(words.values()))))


def _cut(row: Mapping[str, Any], words: int) -> SampleScore:
    ends = [word.end() for word in islice(_WORD.finditer(row["text"]), words)]
    end = ends[-1] if ends else 0
    pieces = [piece for piece in row["evidence"] if piece["verdict"] != "missed"]
    said = [piece["verdict"] for piece in pieces if piece["span"] is None or piece["span"][1] <= end]
    wrong = sum(verdict == "hallucinated" for verdict in said)
    counts = {"responses": 1.0, "hallucinated": float(wrong > 0), "mentions": float(len(said)), "false": float(wrong)}
    return SampleScore(row["item"], row["group"], counts)


def rates(totals: Mapping[str, Any]) -> dict[str, Any]:
    """CHAIRs and CHAIRi of summed counts; NaN where undefined."""

    def ratio(above: Any, below: Any) -> Any:
        below = np.asarray(below, float)
        return np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)

    return {
        "chair_s_matched": ratio(totals["hallucinated"], totals["responses"]),
        "chair_i_matched": ratio(totals["false"], totals["mentions"]),
    }
