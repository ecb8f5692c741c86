"""From items and responses to scores with intervals, written as JSON."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.analysis.scored import items_beside
from harness.core import registry
from harness.core.config import parse
from harness.core.contract import check_resamples, json_of, scores_of, specs_of, values_of
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import sha256_json, write_json, write_jsonl
from harness.core.reading import read_json
from harness.core.record import check
from harness.core.stats import Counts, intervals
from harness.core.types import Item, Response, SampleScore
from harness.datasets.catalogue import describe
from harness.judging.base import Judge, check_votes
from harness.records.item_files import DetailsRow, ItemRow, PieceRow
from harness.records.score_files import ScoresRecord, SuiteScores
from harness.records.sums import keep_sums

if TYPE_CHECKING:
    from benchmarks.base import Benchmark

_NAMED = 20  # number of missing items that an error names
_PARTS = 64
"""Number of parts that a tally collects before it adds them up."""


def check_coverage(items: Sequence[Item], responses: Mapping[str, Response], allow_partial: bool) -> list[Item]:
    """The items that have a response.

    Raises:
        BadInputError: items without a response are not allowed, or a response belongs to no item.
    """
    known = {item.id for item in items}
    extra = [name for name in responses if name not in known]
    if extra:
        raise BadInputError(
            f"{len(extra)} responses belong to no item: {', '.join(extra[:_NAMED])}",
            remedy="remove them, or give the right questions",
        )
    missing = [item.id for item in items if item.id not in responses]
    if missing and not allow_partial:
        raise BadInputError(
            f"{len(missing)} of {len(items)} items have no response: {', '.join(missing[:_NAMED])}",
            remedy="add them, or score the existing ones with --allow-partial",
        )
    if len(missing) == len(items):
        raise BadInputError("no item has a response")
    return [item for item in items if item.id in responses]


def score_suite(
    benchmark: Benchmark,
    items: Sequence[Item],
    responses: Mapping[str, Response],
    *,
    judge: Judge | None = None,
    max_unscored: float = 0.01,
    of: int | None = None,
    about: Mapping[str, Any] | None = None,
) -> tuple[SuiteScores, list[SampleScore]]:
    """Score, aggregate, and put an interval on every metric.

    Args:
        benchmark: with its settings.
        items: the items that have a response.
        responses: by item id.
        judge: for a benchmark that needs one.
        max_unscored: share of items that may have no verdict.
        of: number of items of the whole suite, if only a part is scored.
        about: further keys of the record (checkpoint, sampling, backend).

    Returns:
        The record, a `ScoresRecord` where `about` is given, and the scores item by item.

    Raises:
        HarnessError: more items than allowed have no verdict.
    """
    scores = score_answered(benchmark, items, responses, judge)
    tally = Tally(benchmark, judge)
    tally.add(scores)
    return tally.record(max_unscored, of, about), scores


class Tally:
    """Collects scores in parts, as sums per image, which is all that a record needs."""

    def __init__(self, benchmark: Benchmark, judge: Judge | None = None) -> None:
        self.benchmark, self.judge = benchmark, judge
        self._parts: list[Counts] = []
        self._items = self._unscored = 0
        self._first: SampleScore | None = None
        self._official: list[SampleScore] = []
        # The scores themselves are kept only for suites whose official figures do not follow from counts.
        self._keeps = type(benchmark).official_of.__qualname__ != "Benchmark.official_of"

    def add(self, scores: Sequence[SampleScore]) -> None:
        """Count some."""
        unscored = [score for score in scores if score.unscored is not None]
        self._first = self._first or next(iter(unscored), None)
        self._items += len(scores)
        self._unscored += len(unscored)
        self._parts.append(Counts.of(scores))
        if len(self._parts) > _PARTS:
            self._parts = [Counts.joined(self._parts)]
        if self._keeps:
            self._official += scores

    def record(
        self,
        max_unscored: float,
        of: int | None = None,
        about: Mapping[str, Any] | None = None,
        fault: type[HarnessError] = HarnessError,
    ) -> SuiteScores:
        """Aggregate, and put an interval on every metric. `fault`: the error to raise, a `BadInputError` if all verdicts come from the
        user's files.

        Raises:
            HarnessError: more items than allowed have no verdict.
        """
        benchmark, first = self.benchmark, self._first
        if first is not None and self._unscored > max_unscored * self._items:
            raise fault(
                f"{self._unscored} of {self._items} items could not be scored; first: {first.unscored}",
                where=f"{benchmark.name}, item {first.item_id}",
                remedy=f"fix the cause, or allow it: --max-unscored {math.ceil(100 * self._unscored / self._items) / 100}",
            )
        counts = Counts.joined(self._parts)
        if not counts.clusters:
            raise fault(f"no item could be scored{f': {first.unscored}' if first else ''}", where=benchmark.name)
        totals = counts.totals()
        official = benchmark.official(totals) | benchmark.official_of(self._official)
        record = {
            "schema": SuiteScores.KNOWN,
            "suite": benchmark.name,
            "title": benchmark.title,
            "variant": benchmark.variant_with(self.judge),
            "n": self._items - self._unscored,
            "of": of or self._items,
            "unscored": self._unscored,
            "notes": list(benchmark.notes),
            "judge": json_of(self.judge) if self.judge else None,
            "settings": benchmark.settings.model_dump(mode="json"),
            "provenance": json_of(benchmark),
            "files": {name: describe(path) for name, path in benchmark.files.items()},
            **(about or {}),
            "metrics": _metrics(benchmark, counts, official),
            "counts": {name: float(total) for name, total in totals.items()},
        }
        kind = ScoresRecord if about else SuiteScores
        return check(
            kind, record, "scores", benchmark.name, "fix the benchmark or the judge: these are what it returned"
        )


def _metrics(benchmark: Benchmark, counts: Counts, official: Mapping[str, str]) -> dict[str, Any]:
    """Every metric with its interval and, if the official script prints it, the printed digits."""
    aggregate = functools.partial(values_of, benchmark)
    values, bounds = aggregate(counts.totals()), intervals(counts, aggregate)
    check_resamples(benchmark, counts.totals(), values)
    metrics = {}
    for spec in specs_of(benchmark):
        value = float(values[spec.id])
        metrics[spec.id] = {
            "value": value if math.isfinite(value) else None,
            "official": official.get(spec.id),
            "ci": list(found) if (found := bounds.get(spec.id)) else None,
            "higher_is_better": spec.higher_is_better,
            "title": spec.title,
            "unit": spec.unit,
            "headline": spec.headline,
            "kind": spec.kind,
            "invented_by": spec.invented_by,
        }
    return metrics


def score_answered(
    benchmark: Benchmark, items: Sequence[Item], responses: Mapping[str, Response], judge: Judge | None
) -> list[SampleScore]:
    """The scores, in the order of the items. If the model declined to answer, the item is unscored with the model's words, and the
    benchmark does not see it: it would count as an empty answer without hallucinations."""
    answered = [item for item in items if responses[item.id].refusal is None]
    scores = iter(scores_of(benchmark, answered, responses, judge) if answered else ())
    return [
        next(scores)
        if (words := responses[item.id].refusal) is None
        else SampleScore(item.id, item.group, {}, unscored=f"the model gave no answer: {words.strip() or 'no words'}")
        for item in items
    ]


def make_judge(name: str, settings: Mapping[str, Any]) -> Judge:
    """The judge with this name.

    Raises:
        UnknownNameError: there is none.
        BadInputError: it has no such setting.
    """
    kind: type[Judge] = registry.load("judges", name)
    judge = kind(parse(kind.Settings, dict(settings), f"judge {name}"))
    check_votes(judge)
    return judge


def item_rows(items: Sequence[Item], responses: Mapping[str, Response], scores: Sequence[SampleScore]) -> list[ItemRow]:
    """One row an item: question, answer, counts, mentions with verdicts."""
    by_id = {item.id: item for item in items}
    return [
        ItemRow(
            item=score.item_id,
            group=score.group,
            prompt=by_id[score.item_id].prompt,
            text=responses[score.item_id].text,
            counts={name: _number(count) for name, count in score.counts.items()},
            evidence=[PieceRow(piece.text, piece.verdict, piece.label, piece.span) for piece in score.evidence],
            details=cast("DetailsRow", dict(score.details)),
            unscored=score.unscored,
        )
        for score in scores
    ]


def _number(count: float) -> float:
    """A count as a JSON number; True and numpy's numbers are converted."""
    return count if type(count) in (int, float) else float(count)


def write_scores(folder: Path, record: SuiteScores, rows: Iterable[ItemRow], name: str | None = None) -> Path:
    """Write items and then scores; the files of a variant have its name, so that scores of two parsers are both kept.

    Args:
        folder: of the suite's answers.
        record: the scores.
        rows: of the items.
        name: the score file's name, if it must be that of another folder's; else it follows from the variant.

    Returns:
        The score file.
    """
    scores = folder / (name or _name(folder, record.variant))
    items = items_beside(scores)
    write_jsonl(items, (row.written() for row in rows))
    with contextlib.suppress(OSError, HarnessError):  # the cache for leaderboards only saves time
        keep_sums(items)
    write_json(scores, record.written())
    return scores


def _name(folder: Path, variant: str) -> str:
    """`scores-VARIANT.json`, with a part of the variant's hash if another variant's scores have that name: "a/b" and "a-b" share one."""
    if not variant:
        return "scores.json"
    plain = "scores-" + re.sub(r"[^\w.+-]+", "-", variant)
    hashed = f"{plain}-{sha256_json(variant)[:8]}.json"
    # Files of a file system that ignores case are found under the other spelling, too.
    taken = (folder / hashed).exists() or _variant_in(folder / f"{plain}.json") not in (None, variant)
    return hashed if taken else f"{plain}.json"


def _variant_in(scores: Path) -> str | None:
    """The variant of a score file; None if there is no such file, or none that can be read, which new scores replace."""
    if not scores.exists():
        return None
    with contextlib.suppress(BadInputError):
        record = read_json(scores, "scores")
        if isinstance(record, dict) and isinstance(record.get("variant"), str):
            return str(record["variant"])
    return None
