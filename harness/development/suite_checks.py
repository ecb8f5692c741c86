"""Checks of a benchmark on its own questions, with made-up answers: what scoring, resampling and comparison rely on."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.base import Benchmark
from harness.core.contract import check_resamples, items_of, json_of, scores_of, specs_of, truth_of, values_of
from harness.core.plugins import wrong
from harness.core.progress import progress
from harness.core.stats import Counts, intervals
from harness.core.types import Item, Response, SampleScore

_RESAMPLES = 200


def check_benchmark(benchmark: Benchmark, data: Path, limit: int = 200) -> list[str]:
    """Check a benchmark: its questions, scores that do not depend on their neighbours, and metrics that can be resampled.

    Args:
        benchmark: the benchmark with its settings.
        data: the folder with its files.
        limit: the most questions that are scored; a group of questions is not divided. The images of all questions are opened.

    Returns:
        What was checked, a sentence each.

    Raises:
        BadInputError: a file or an image is missing or broken.
        PluginError: a check failed; the message says what a method returned and what was expected.
    """
    every = items_of(benchmark, data)
    items = _first_groups(every, limit)
    specs = specs_of(benchmark)
    checked = [_images_checked(every)]
    if benchmark.needs_judge:
        return [*checked, "not checked: scores, because a judge gives them"]
    responses = _answers(benchmark, items)
    scores = scores_of(benchmark, items, responses, None)
    shuffled = random.Random(0).sample(items, len(items))
    _compare(benchmark, scores, scores_of(benchmark, shuffled, responses, None), "in another order")
    if not benchmark.whole_groups:
        alone = [scores_of(benchmark, [item], {item.id: responses[item.id]}, None)[0] for item in items]
        _compare(benchmark, scores, alone, "alone")
    counts = Counts.of(scores)
    totals = counts.totals()
    aggregate = functools.partial(values_of, benchmark)
    values = aggregate(totals)
    check_resamples(benchmark, totals, values)
    _check_scale(benchmark, totals, values)
    intervals(counts, aggregate, resamples=_RESAMPLES)
    json_of(benchmark)
    return [
        *checked,
        f"{len(items):,} made-up answers: an answer's counts do not depend on its place or its neighbours",
        f"{len(specs)} metrics can be computed for many resamples at once, and do not change with the number of equal answers",
    ]


def _images_checked(items: Sequence[Item]) -> str:
    """Open every image of a benchmark once, and say how many there are.

    Raises:
        BadInputError: an image is missing or broken.
    """
    asked = [item.image for item in items if not item.image.absent]
    images = {image.path or image.fingerprint(): image for image in asked}
    with progress("opening the images", len(images)) as advance:
        for image in images.values():
            image.facts()
            advance()
    without = f"; {len(items) - len(asked):,} have no image" if len(asked) < len(items) else ""
    readable = ", each image readable" if images else ""
    return f"{len(items):,} questions about {len(images):,} images{readable}{without}"


def _first_groups(items: Sequence[Item], limit: int) -> list[Item]:
    """Whole groups of items from the beginning, up to a limit, but at least one."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    kept: list[Item] = []
    for members in groups.values():
        if kept and len(kept) + len(members) > limit:
            break
        kept += members
    return kept


def _answers(benchmark: Benchmark, items: Sequence[Item]) -> dict[str, Response]:
    """Right answers as far as the benchmark knows them, and others: empty, yes, no, a sentence."""
    others = ("", "Yes.", "No, there is not.", "A man is riding a red bicycle in front of two dogs.")
    texts = {}
    for number, item in enumerate(items):
        truth = truth_of(benchmark, item)
        texts[item.id] = truth if truth and number % 2 else others[number // 2 % len(others)]
    return {name: Response(name, text, "stop") for name, text in texts.items()}


def _compare(benchmark: Benchmark, scores: Sequence[SampleScore], others: Sequence[SampleScore], how: str) -> None:
    """Make sure that items have the same counts in another arrangement."""
    counts = {score.item_id: (dict(score.counts), score.unscored) for score in others}
    for score in scores:
        if counts[score.item_id] != (dict(score.counts), score.unscored):
            raise wrong(
                benchmark,
                "score",
                f"{counts[score.item_id][0]} for item {score.item_id} {how}, and {dict(score.counts)} among all",
                "counts that depend on the item and its answer alone (or whole_groups = True)",
            )


def _check_scale(benchmark: Benchmark, totals: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]) -> None:
    """Make sure that three times the same answers have the same metrics; a resample can contain a group of questions several times."""
    tripled = values_of(benchmark, {name: 3 * total for name, total in totals.items()})
    for spec in specs_of(benchmark):
        value, thrice = float(values[spec.id]), float(tripled[spec.id])
        if "count" not in (spec.kind, spec.unit) and not np.isclose(thrice, value, equal_nan=True):
            raise wrong(
                benchmark,
                "aggregate",
                f"{thrice:.6g} as '{spec.id}' of three times the same counts, and {value:.6g} of one",
                "the same value: a quotient of counts (or kind='count')",
            )
