"""Intervals against scipy, and their coverage by simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import scipy.stats

from harness.core.stats import Counts, gaps, holm, intervals, mcnemar, paired
from harness.core.types import SampleScore


def rate(totals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    below = np.asarray(totals["n"], float)
    return {"rate": np.divide(totals["hit"], below, out=np.full(below.shape, np.nan), where=below > 0)}


def scores(hits: np.ndarray, groups: np.ndarray | None = None) -> list[SampleScore]:
    return [
        SampleScore(str(n), str(n if groups is None else groups[n]), {"hit": float(hit)}) for n, hit in enumerate(hits)
    ]


def test_counts_are_summed_by_cluster() -> None:
    counts = Counts.of(
        [*scores(np.array([1, 0, 1]), np.array([7, 7, 8])), SampleScore("x", "9", {}, unscored="no reply")]
    )
    assert counts.clusters == ("7", "8")
    assert counts.matrix.tolist() == [[1, 2], [1, 1]]


def test_interval_of_a_mean_is_scipys_bootstrap() -> None:
    hits = (np.random.default_rng(0).random(200) < 0.3).astype(float)
    interval = intervals(Counts.of(scores(hits)), rate, resamples=4000)["rate"]
    theirs = scipy.stats.bootstrap(
        (hits,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert interval is not None
    assert interval == pytest.approx((theirs.low, theirs.high), abs=0.012)


Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def mentions(rng: np.random.Generator, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Like CHAIRi: captions of one to nine mentions; images differ much in how many of theirs are invented."""
    said = rng.poisson(4, clusters) + 1
    return rng.binomial(said, rng.beta(0.4, 2, clusters)), said


def words(rng: np.random.Generator, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Like a mean length: skewed to the right."""
    return rng.lognormal(3, 0.5, clusters), np.ones(clusters)


def questions(rng: np.random.Generator, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Like an accuracy: four questions an image, which agree more than chance."""
    return rng.binomial(4, rng.beta(2, 3, clusters)), np.full(clusters, 4)


def captions(rng: np.random.Generator, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Like CHAIRs: one caption an image, three in twenty with an invented object."""
    return rng.random(clusters) < 0.15, np.ones(clusters)


@pytest.mark.parametrize(
    ("draw", "true"),
    [(mentions, 0.4 / 2.4), (words, float(np.exp(3.125))), (questions, 0.4), (captions, 0.15)],
    ids=["ratio", "mean", "clustered rate", "rate"],
)
def test_coverage_at_three_hundred_images_is_nominal(draw: Draw, true: float) -> None:
    rng, trials, clusters = np.random.default_rng(11), 1500, 300
    names = tuple(map(str, range(clusters)))
    covered = 0
    for _ in range(trials):
        hits, below = draw(rng, clusters)
        found = intervals(Counts(("hit", "n"), names, np.column_stack([hits, below]).astype(float)), rate, 1000)["rate"]
        assert found is not None
        covered += found[0] <= true <= found[1]
    assert 0.93 <= covered / trials <= 0.97


def test_ignoring_the_clusters_would_be_too_narrow() -> None:
    rng = np.random.default_rng(4)
    hits = np.repeat((rng.random(100) < 0.4).astype(float), 6)
    by_image = intervals(Counts.of(scores(hits, np.repeat(np.arange(100), 6))), rate)["rate"]
    by_question = intervals(Counts.of(scores(hits)), rate)["rate"]
    assert by_image is not None and by_question is not None
    assert by_image[1] - by_image[0] > 1.8 * (by_question[1] - by_question[0])


def test_what_is_undefined_has_no_interval() -> None:
    assert intervals(Counts.of(scores(np.array([1.0]))), rate)["rate"] is None


def test_paired_difference_uses_the_pairing() -> None:
    rng = np.random.default_rng(5)
    first = (rng.random(300) < 0.5).astype(float)
    second = first.copy()
    second[:12] = 0  # the same items but for a few that got better
    counts, other = Counts.of(scores(first)), Counts.of(scores(second)[::-1])
    found = paired(counts, other, rate)["rate"]
    assert found.value == pytest.approx((first - second).mean())
    assert found.ci[0] > 0 and found.p < 0.05
    assert paired(counts, counts, rate)["rate"].p == 1.0
    with pytest.raises(ValueError, match="same images"):
        paired(counts, Counts.of(scores(first[:10])), rate)


def test_a_few_images_prove_nothing() -> None:
    first, other = np.ones(6), np.zeros(6)
    assert paired(Counts.of(scores(first[:1])), Counts.of(scores(other[:1])), rate) == {}
    # Three images that all point one way: by flipping signs, one of four outcomes is as extreme.
    assert paired(Counts.of(scores(first[:3])), Counts.of(scores(other[:3])), rate)["rate"].p == 0.25
    assert paired(Counts.of(scores(first)), Counts.of(scores(other)), rate)["rate"].p == 2 / 64


def test_mcnemar_is_scipys_exact_binomial_test() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        ours, other = (rng.random(60) < 0.7).tolist(), (rng.random(60) < 0.6).tolist()
        first, second, p = mcnemar(ours, other)
        assert (first, second) == (
            sum(a and not b for a, b in zip(ours, other, strict=True)),
            sum(b and not a for a, b in zip(ours, other, strict=True)),
        )
        assert p == pytest.approx(scipy.stats.binomtest(first, first + second, 0.5).pvalue)
    assert mcnemar([True, False], [True, False]) == (0, 0, 1.0)


def test_holm_by_hand() -> None:
    # 0.01 x 3; 0.03 x 2 = 0.06; 0.04 x 1 is raised to 0.06, so that the order stays.
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({}) == {} and holm({"a": 0.8, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_a_detectable_difference_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(6)
    covered = trials = 0
    for _ in range(200):
        first = (rng.random(300) < 0.5).astype(float)
        second = (rng.random(300) < 0.5).astype(float)
        size = paired(Counts.of(scores(first)), Counts.of(scores(second)), rate, resamples=400)["rate"].detectable
        shifted = (rng.random(300) < 0.5 - size).astype(float)
        covered += paired(Counts.of(scores(first)), Counts.of(scores(shifted)), rate, resamples=400)["rate"].p < 0.05
        trials += 1
    assert 0.7 <= covered / trials <= 0.9


def test_without_a_scored_item_there_is_no_difference_and_no_error() -> None:
    nothing = Counts.of([])
    assert gaps(nothing, nothing, lambda totals: {"n": totals["n"]})["n"][0] == 0
    assert paired(nothing, nothing, lambda totals: {"n": totals["n"]}) == {}
