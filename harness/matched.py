"""CHAIR at matched length: a checkpoint that says less hallucinates less, so all are compared on equally many words.

Every item's descriptions are cut to the words of the shortest one among the compared checkpoints, and CHAIR is counted on what is
left. Nothing is parsed again: the mentions' places were kept as evidence when the descriptions were scored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

from harness.stats import Counts, intervals
from harness.types import SampleScore

_WORD = re.compile(r"\S+")
_UNKNOWN = 0.02
Rows = Mapping[str, Mapping[str, Any]]
"""Item id -> its row of an item file."""


def matched(checkpoints: Mapping[str, Rows]) -> dict[str, dict[str, dict[str, Any]]]:
    """CHAIRs and CHAIRi of every checkpoint at matched length, with 95 % intervals.

    Args:
        checkpoints: name -> rows; the mentions' places are in `evidence`.

    Returns:
        Name -> {"chair_s_matched" | "chair_i_matched": {value, ci, n, words}}; {} where fewer than two checkpoints have the same
        items, or the places of more than one mention in fifty are not known. The others without a place count as if they came first.
    """
    items = [set(rows) for rows in checkpoints.values()]
    if len(items) < 2 or not items[0] or any(other != items[0] for other in items):
        return {}
    places = [
        piece["span"]
        for rows in checkpoints.values()
        for row in rows.values()
        for piece in row["evidence"]
        if piece["verdict"] != "missed"
    ]
    if places.count(None) > len(places) * _UNKNOWN:
        return {}
    words = {
        item: min(sum(1 for _ in _WORD.finditer(rows[item]["text"])) for rows in checkpoints.values())
        for item in items[0]
    }
    mean = float(np.mean(list(words.values())))
    found = {}
    for name, rows in checkpoints.items():
        counts = Counts.of([_cut(rows[item], words[item]) for item in sorted(rows)])
        values, bounds = _rates(counts.totals()), intervals(counts, _rates)
        found[name] = {
            metric: {
                "value": float(value) if np.isfinite(value) else None,
                "ci": bounds.get(metric),
                "n": len(rows),
                "words": mean,
            }
            for metric, value in values.items()
        }
    return found


def _cut(row: Mapping[str, Any], words: int) -> SampleScore:
    ends = [word.end() for word in islice(_WORD.finditer(row["text"]), words)]
    end = ends[-1] if ends else 0
    pieces = [piece for piece in row["evidence"] if piece["verdict"] != "missed"]
    said = [piece["verdict"] for piece in pieces if piece["span"] is None or piece["span"][1] <= end]
    wrong = sum(verdict == "hallucinated" for verdict in said)
    counts = {"responses": 1.0, "hallucinated": float(wrong > 0), "mentions": float(len(said)), "false": float(wrong)}
    return SampleScore(row["item"], row["group"], counts)


def _rates(totals: Mapping[str, Any]) -> dict[str, Any]:
    def ratio(above: Any, below: Any) -> Any:
        below = np.asarray(below, float)
        return np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)

    return {
        "chair_s_matched": ratio(totals["hallucinated"], totals["responses"]),
        "chair_i_matched": ratio(totals["false"], totals["mentions"]),
    }
