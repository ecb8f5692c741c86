"""Agreement of two raters: exact, within one point, and beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np


def kappa(ratings: Sequence[float], others: Sequence[float], *, quadratic: bool = False) -> float | None:
    """Cohen's kappa of two raters over the same items; with quadratic weights, for ratings on a scale.

    None if it is undefined: there are no items, or both give the same single rating to all.

    Source: Cohen, 1960; weighted, Cohen, 1968.
    """
    values, places = np.unique(np.concatenate([ratings, others]), return_inverse=True)
    if not len(ratings) or len(values) < 2:
        return None
    first, second = places[: len(ratings)], places[len(ratings) :]
    joint = np.zeros((len(values), len(values)))
    np.add.at(joint, (first, second), 1 / len(ratings))
    distance = np.abs(values[:, None] - values[None, :]) ** 2 if quadratic else 1.0 - np.eye(len(values))
    expected = float((np.outer(joint.sum(1), joint.sum(0)) * distance).sum())
    return 1 - float((joint * distance).sum()) / expected if expected else None


def agreement(one: Sequence[float], other: Sequence[float], below: float) -> dict[str, Any]:
    """Agreement of two lists of ratings of the same items, on a scale on which less than `below` is a hallucination."""
    first, second = np.asarray(one, float), np.asarray(other, float)
    verdicts = first < below, second < below
    empty = not len(first)
    return {
        "n": len(first),
        "exact": None if empty else float((first == second).mean()),
        "within_one": None if empty else float((np.abs(first - second) <= 1).mean()),
        "kappa_quadratic": kappa(first.tolist(), second.tolist(), quadratic=True),
        "same_verdict": None if empty else float((verdicts[0] == verdicts[1]).mean()),
        "kappa_verdict": kappa(verdicts[0].astype(float).tolist(), verdicts[1].astype(float).tolist()),
        "mean_difference": None if empty else float((second - first).mean()),
    }


def self_agreement(votes: Sequence[Sequence[float]], below: float) -> dict[str, Any]:
    """Agreement of a judge with itself: all pairs of its votes on each item, pooled. Items with one vote do not count."""
    pairs = [pair for own in votes for pair in combinations(own, 2)]
    # Both orders of a pair are counted, so that the agreement does not depend on the order of votes.
    both = [*pairs, *((second, first) for first, second in pairs)]
    result = agreement([first for first, _ in both], [second for _, second in both], below)
    return result | {"n": len(pairs), "mean_difference": 0.0 if pairs else None}
