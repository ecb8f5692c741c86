"""Intervals and paired comparisons, by bootstrap over images, from counts alone.

Questions about one image are not independent, so images (clusters) are resampled, not questions. Because metrics are functions of
summed counts, a resample is a weighted sum of the clusters' counts, and all resamples together are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.types import SampleScore

RESAMPLES = 2_000
_SEED = 20_261
Aggregate = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Counts:
    """Summed counts per cluster: `matrix` is [clusters, names], float64. The name "n" counts scored items."""

    names: tuple[str, ...]
    clusters: tuple[str, ...]
    matrix: np.ndarray

    @classmethod
    def of(cls, scores: Sequence[SampleScore]) -> Counts:
        """Counts of the scored items; unscored ones have none and are left out."""
        scored = [score for score in scores if score.unscored is None]
        names = tuple(dict.fromkeys(name for score in scored for name in score.counts)) or ()
        clusters = tuple(dict.fromkeys(score.group for score in scored))
        place = {name: column for column, name in enumerate((*names, "n"))}
        row = {group: number for number, group in enumerate(clusters)}
        matrix = np.zeros((len(clusters), len(place)))
        for score in scored:
            number = row[score.group]
            for name, value in score.counts.items():
                matrix[number, place[name]] += value
            matrix[number, place["n"]] += 1
        return cls((*names, "n"), clusters, matrix)

    def totals(self) -> dict[str, np.ndarray]:
        """Sums over all clusters, each of shape []."""
        return dict(zip(self.names, self.matrix.sum(0), strict=True))


def resampled(counts: Counts, resamples: int = RESAMPLES, seed: int = _SEED) -> dict[str, np.ndarray]:
    """Totals of bootstrap resamples of the clusters, each of shape [resamples]."""
    size = len(counts.clusters)
    rng = np.random.default_rng(seed)
    blocks = []
    for start in range(0, resamples, 1000):
        weights = rng.multinomial(size, np.full(size, 1 / size), size=min(1000, resamples - start)).astype(float)
        blocks.append(weights @ counts.matrix)
    return dict(zip(counts.names, np.concatenate(blocks).T, strict=True))


def intervals(
    counts: Counts, aggregate: Aggregate, resamples: int = RESAMPLES, level: float = 0.95
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of every metric; None where it is undefined in most resamples or there is only one cluster."""
    if len(counts.clusters) < 2:
        return dict.fromkeys(aggregate(counts.totals()))
    values = aggregate(resampled(counts, resamples))
    tail = 100 * (1 - level) / 2
    result: dict[str, tuple[float, float] | None] = {}
    for name, drawn in values.items():
        defined = drawn[np.isfinite(drawn)]
        if len(defined) * 2 < resamples:
            result[name] = None
        else:
            low, high = np.percentile(defined, [tail, 100 - tail])
            result[name] = (float(low), float(high))
    return result


@dataclass(frozen=True)
class Difference:
    """One metric of run A minus run B on the same clusters: value, 95 % interval, two-sided bootstrap p."""

    value: float
    ci: tuple[float, float]
    p: float


def paired(
    one: Counts, other: Counts, aggregate: Aggregate, resamples: int = RESAMPLES, seed: int = _SEED
) -> dict[str, Difference]:
    """Differences of all metrics, both runs resampled alike.

    Raises:
        ValueError: the runs do not cover the same clusters.
    """
    if set(one.clusters) != set(other.clusters):
        raise ValueError("the runs do not cover the same images")
    order = [other.clusters.index(group) for group in one.clusters]
    columns = [other.names.index(name) for name in one.names]
    aligned = Counts(one.names, one.clusters, other.matrix[order][:, columns])
    first, second = aggregate(one.totals()), aggregate(aligned.totals())
    drawn = (aggregate(resampled(one, resamples, seed)), aggregate(resampled(aligned, resamples, seed)))
    result: dict[str, Difference] = {}
    for name in first:
        gap = drawn[0][name] - drawn[1][name]
        gap = gap[np.isfinite(gap)]
        value = float(first[name] - second[name])
        if not len(gap) or not np.isfinite(value):
            continue
        low, high = np.percentile(gap, [2.5, 97.5])
        tail = min((gap <= 0).mean(), (gap >= 0).mean())
        result[name] = Difference(value, (float(low), float(high)), float(min(1.0, 2 * max(tail, 1 / (len(gap) + 1)))))
    return result
