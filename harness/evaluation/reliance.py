"""How much answers depend on the picture: scores and answers with a changed picture, compared with the original picture."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.core.contract import values_of
from harness.core.errors import HarnessError
from harness.core.pairing import paired_items
from harness.core.stats import Counts, Difference, intervals, paired
from harness.core.types import Response, SampleScore
from harness.records.changed_scores import ChangedMetric, GapRecord, RelianceRecord, UnchangedRecord

if TYPE_CHECKING:
    from benchmarks.base import Benchmark


@dataclass(frozen=True)
class Answered:
    """One suite's scores, and the scored responses by item id."""

    scores: Sequence[SampleScore]
    responses: Mapping[str, Response]


def reliance(
    benchmark: Benchmark,
    clean: Answered,
    changed: Answered,
    clean_items: str,
    without_picture: Set[str] = frozenset(),
) -> RelianceRecord:
    """Compare the answers to changed pictures with those to the original ones, on items with a verdict for both.

    Args:
        benchmark: with its settings.
        clean: the answers with the picture as it is.
        changed: the answers with the changed picture.
        clean_items: SHA-256 of the item file of the former.
        without_picture: ids of the items that are asked without a picture. They count in the metrics, which may compare them with
            others, and not in `unchanged`.

    Returns:
        `n` (items), `unchanged` (share of answers with exactly the same text, with its interval) and `metrics`: of every
        metric that is defined for both `clean` and `changed` (its values on these items), and `gap`, changed minus clean, with its
        paired 95 % interval, p and the smallest difference that could be found (`harness.core.stats.Difference`). Units are the
        metrics' own; rates are fractions.

    Raises:
        HarnessError: no item has a verdict with both pictures.
    """
    before = {score.item_id: score for score in clean.scores if score.unscored is None}
    after = {score.item_id: score for score in changed.scores if score.unscored is None}
    groups = [{item: score.group for item, score in scores.items()} for scores in (before, after)]
    paired_ids = paired_items(groups, whole_groups=benchmark.whole_groups)
    both = [item for item in before if item in paired_ids]
    looked_at = [item for item in both if item not in without_picture]
    if not looked_at:
        raise HarnessError("no item has a verdict with both pictures", where=benchmark.name)
    changed_counts, clean_counts = (Counts.of([scores[item] for item in both]) for scores in (after, before))
    aggregate = functools.partial(values_of, benchmark)
    first, second = aggregate(changed_counts.totals()), aggregate(clean_counts.totals())
    metrics = {
        name: ChangedMetric(clean=float(second[name]), changed=float(first[name]), gap=_gap(difference))
        for name, difference in paired(changed_counts, clean_counts, aggregate).items()
        if math.isfinite(float(second[name])) and math.isfinite(float(first[name]))
    }
    unchanged = _unchanged(looked_at, before, clean, changed)
    return RelianceRecord(clean_items=clean_items, n=len(both), unchanged=unchanged, metrics=metrics)


def _gap(found: Difference) -> GapRecord:
    return GapRecord(value=found.value, ci=list(found.ci), p=found.p, detectable=found.detectable)


def _unchanged(
    items: Sequence[str], scores: Mapping[str, SampleScore], clean: Answered, changed: Answered
) -> UnchangedRecord:
    """Share of the items whose answer is the same text, and its interval over pictures; None if there is only one picture."""
    same = Counts.of(
        [
            SampleScore(
                item,
                scores[item].group,
                {"same": float(clean.responses[item].text == changed.responses[item].text)},
            )
            for item in items
        ]
    )

    def share(totals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"unchanged": totals["same"] / totals["n"]}

    ci = intervals(same, share)["unchanged"]
    return UnchangedRecord(value=float(share(same.totals())["unchanged"]), ci=list(ci) if ci else None)
