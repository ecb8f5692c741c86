"""Intervals and paired comparisons, by bootstrap over images, from counts alone.

Questions about one image are not independent, so images (clusters) are resampled, not questions. Because metrics are functions of
summed counts, a resample is a weighted sum of the clusters' counts, and all resamples together are one matrix product.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.types import SampleScore

RESAMPLES = 10_000
SEED = 20_261
_BLOCK = 1_000_000
"""Number of weights that are drawn and multiplied at once; with 8 bytes each they take 8 MB."""
_KEPT = 16_000_000
"""Maximum number of weights of one suite that are kept in memory, one byte each: 10,000 resamples of 1,600 images."""
Aggregate = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def _picked(counts: Mapping[str, float], names: tuple[str, ...]) -> tuple[float, ...]:
    """The counts in this order, 0 for missing ones. Scores of one benchmark mostly have the same names in the same order."""
    if tuple(counts) == names:
        return tuple(counts.values())
    return tuple(counts.get(name, 0.0) for name in names)


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
        names = tuple(dict.fromkeys(name for score in scored for name in score.counts))
        row = {group: number for number, group in enumerate(dict.fromkeys(score.group for score in scored))}
        rows = np.array([row[score.group] for score in scored], int)
        matrix = np.zeros((len(row), len(names) + 1))
        if names:
            values = np.array([_picked(score.counts, names) for score in scored], float)
            np.add.at(matrix[:, :-1], rows, values)
        matrix[:, -1] = np.bincount(rows, minlength=len(row))
        return cls((*names, "n"), tuple(row), matrix)

    @classmethod
    def joined(cls, parts: Sequence[Counts]) -> Counts:
        """The sum of several; names and clusters in order of first occurrence."""
        if len(parts) == 1:
            return parts[0]
        names = (*dict.fromkeys(name for part in parts for name in part.names if name != "n"), "n")
        place = {name: number for number, name in enumerate(names)}
        row = {
            group: number for number, group in enumerate(dict.fromkeys(one for part in parts for one in part.clusters))
        }
        matrix = np.zeros((len(row), len(names)))
        for part in parts:
            rows, columns = [row[group] for group in part.clusters], [place[name] for name in part.names]
            matrix[np.ix_(rows, columns)] += part.matrix
        return cls(names, tuple(row), matrix)

    def totals(self) -> dict[str, np.ndarray]:
        """Sums over all clusters, each of shape []."""
        return dict(zip(self.names, self.matrix.sum(0), strict=True))


def _drawn(size: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `size` clusters is in each resample, in blocks [rows, size] of bytes: no cluster is drawn 256 times."""
    rng, most = np.random.default_rng(seed), max(1, _BLOCK // size)
    for start in range(0, resamples, most):
        rows = min(most, resamples - start)
        drawn = rng.integers(0, size, (rows, size)) + np.arange(rows)[:, None] * size
        yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def resampling_weights(size: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of `size` clusters is in each resample, [resamples, size]. Cached, because all runs of a suite share the
    resamples."""
    weights, filled = np.empty((resamples, size), np.uint8), 0
    for block in _drawn(size, resamples, seed):
        weights[filled : filled + len(block)] = block
        filled += len(block)
    weights.setflags(write=False)
    return weights


def resampled(counts: Counts, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, np.ndarray]:
    """Totals of bootstrap resamples of the clusters, each of shape [resamples]."""
    size = len(counts.clusters)
    if not size:  # nothing was scored, so there is nothing to draw, and a metric is as undefined as without a resample
        return {name: np.zeros(resamples) for name in counts.names}
    if size * resamples <= _KEPT:
        weights = resampling_weights(size, resamples, seed)
        blocks: Iterable[np.ndarray] = np.array_split(weights, -(-weights.size // _BLOCK))
    else:  # drawn again for every run: slower, but memory does not grow with the images
        blocks = _drawn(size, resamples, seed)
    kind = _exact(counts.matrix)
    matrix = counts.matrix.astype(kind)
    totals = np.concatenate([(block.astype(kind) @ matrix).astype(float) for block in blocks])
    return dict(zip(counts.names, totals.T, strict=True))


def _exact(matrix: np.ndarray) -> type[np.floating]:
    """float32 if every sum of a resample is exact in it, as for whole numbers up to 2^24; it takes half of the time and memory of
    float64."""
    most = float(np.abs(matrix).max(initial=0.0)) * len(matrix)
    return np.float32 if most < 2**24 and np.array_equal(matrix, np.round(matrix)) else np.float64


def intervals(
    counts: Counts, aggregate: Aggregate, resamples: int = RESAMPLES, level: float = 0.95
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of every metric; None if it is undefined in most resamples or there is only one cluster.

    Why percentiles: in 2,000 simulated sets of 300 clusters (plain, clustered and rare rates, means, ratios like CHAIRi) they cover the
    truth 93.6 to 95.6 % of the time. Bias-corrected and accelerated intervals covered it 94.6 to 96.6 %, better for rare mentions and no
    better elsewhere, and need a jackknife of every metric; basic ones 92.0 to 95.3 %. tests/harness/core/test_stats.py holds 93 to 97 %.
    """
    if len(counts.clusters) < 2:
        return dict.fromkeys(aggregate(counts.totals()))
    return {name: bounds(drawn, level) for name, drawn in aggregate(resampled(counts, resamples)).items()}


def bounds(drawn: np.ndarray, level: float = 0.95) -> tuple[float, float] | None:
    """The percentile interval of a metric's resampled values, [resamples]; None if most of them are undefined."""
    defined = drawn[np.isfinite(drawn)]
    if len(defined) * 2 < len(drawn):
        return None
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """One metric of run A minus run B on the same clusters.

    Attributes:
        value: the difference.
        ci: its 95 % interval.
        p: two-sided, by paired bootstrap; never below 2 / (resamples + 1), nor below 2 / 2^clusters.
        detectable: the smallest true difference that a test at 5 % would find with 80 % probability on so many clusters.
    """

    value: float
    ci: tuple[float, float]
    p: float
    detectable: float


def paired(
    run: Counts, other: Counts, aggregate: Aggregate, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Difference]:
    """Differences of all metrics that are defined for both runs, with the same resamples for both.

    Raises:
        ValueError: the runs do not cover the same clusters.
    """
    images = len(run.clusters)
    differences = {name: difference(*gap, images) for name, gap in gaps(run, other, aggregate, resamples, seed).items()}
    return {name: gap for name, gap in differences.items() if gap is not None}


def gaps(
    run: Counts, other: Counts, aggregate: Aggregate, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, tuple[float, np.ndarray]]:
    """For every metric the value of `run` minus that of `other`, and the same for every resample, [resamples].

    Raises:
        ValueError: the runs do not cover the same clusters.
    """
    other = aligned(run, other)
    first, second = aggregate(run.totals()), aggregate(other.totals())
    drawn = (aggregate(resampled(run, resamples, seed)), aggregate(resampled(other, resamples, seed)))
    return {name: (float(first[name] - second[name]), drawn[0][name] - drawn[1][name]) for name in first}


def aligned(run: Counts, other: Counts) -> Counts:
    """The counts of `other` with the images in the order of `run`, so that both share the resamples.

    Raises:
        ValueError: the runs do not cover the same clusters.
    """
    if run.clusters == other.clusters:
        return other
    if set(run.clusters) != set(other.clusters):
        raise ValueError("the runs do not cover the same images")
    place = {group: number for number, group in enumerate(other.clusters)}
    return Counts(other.names, run.clusters, other.matrix[[place[group] for group in run.clusters]])


def difference(value: float, drawn: np.ndarray, clusters: int) -> Difference | None:
    """A difference from its value and its resampled values, [resamples]; None if it is undefined, or there is only one cluster."""
    gap = drawn[np.isfinite(drawn)]
    if not len(gap) or not np.isfinite(value) or clusters < 2:
        return None
    low, high = np.percentile(gap, [2.5, 97.5])
    tail = min((gap <= 0).mean(), (gap >= 0).mean())
    # A few clusters with the same sign would look certain; an exact sign-flip test of n clusters cannot give less than 2 / 2^n.
    p = float(min(1.0, max(2 * max(tail, 1 / (len(gap) + 1)), 2.0 ** (1 - clusters))))
    return Difference(value, (float(low), float(high)), p, _POWER * float(gap.std()))


_POWER = 1.959964 + 0.841621
"""Normal quantiles of 97.5 % and 80 %: a difference of this many standard errors is found with 80 % probability."""


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several comparisons, corrected so that the chance of any false finding stays at the level.

    Source: Holm, 1979.
    """
    order = sorted(values, key=lambda name: values[name])
    corrected: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * values[name]))
        corrected[name] = highest
    return {name: corrected[name] for name in values}


def mcnemar(run: Sequence[bool], other: Sequence[bool]) -> tuple[int, int, float]:
    """The number of answers that only the first run has right, the number that only the second has, and the exact two-sided p-value.

    Assumes independent answers, although answers about one image are not quite independent; the paired bootstrap does not assume this.

    Source: McNemar, 1947; exact binomial form.
    """
    first = sum(a and not b for a, b in zip(run, other, strict=True))
    second = sum(b and not a for a, b in zip(run, other, strict=True))
    both = first + second
    if not both:
        return first, second, 1.0
    tail = sum(math.comb(both, k) for k in range(min(first, second) + 1)) / 2**both
    return first, second, min(1.0, 2 * tail)
