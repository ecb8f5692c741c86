"""Paired comparison of runs: metric by metric on the items that all have, and the items that changed most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.analysis.conditions import ANSWERS, PARSER, conditions_of, unlike_conditions
from harness.analysis.declared import benchmark_of, verdicts
from harness.analysis.scored import Scored, read_rows, sample_scores, scored, unlike
from harness.core.declared import Verdict, is_right
from harness.core.errors import BadInputError, HarnessError
from harness.core.pairing import paired_items
from harness.core.stats import Counts, Difference, holm, mcnemar, paired
from harness.records.item_files import ItemRow
from harness.runs.folders import Run, distinct

Judged = Callable[[Mapping[str, Any]], Verdict]
"""Returns the verdict on an item's row, see `harness.analysis.declared.verdicts`."""


@dataclass(frozen=True)
class Compared:
    """One run's scores of one suite, with the rows of its items by id (unscored ones are left out)."""

    scored: Scored
    rows: Mapping[str, ItemRow]

    @property
    def run(self) -> str:
        """The run's name."""
        return self.scored.run


@dataclass(frozen=True)
class ItemChange:
    """How one item changed from the first run to another.

    Attributes:
        new: hallucinations that only the other run has; `cured`, those that only the first had.
        lost: right objects (or answers) that only the first had; `gained`, those that only the other has.
    """

    item: str
    prompt: str
    texts: tuple[str, str]
    new: tuple[str, ...]
    cured: tuple[str, ...]
    lost: tuple[str, ...]
    gained: tuple[str, ...]

    @property
    def size(self) -> int:
        """How much changed."""
        return len(self.new) + len(self.cured) + len(self.lost) + len(self.gained)

    def as_json(self) -> dict[str, Any]:
        """The same under the keys of `harness compare --json`, which have been these since version 0.1."""
        return {"found" if key == "gained" else key: value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Pairing:
    """The first run against another: differences (other minus first), corrected p-values, answers that flipped, changed items."""

    other: str
    differences: Mapping[str, Difference]
    corrected: Mapping[str, float]
    flips: tuple[int, int, float] | None
    changes: tuple[ItemChange, ...]


@dataclass(frozen=True)
class Comparison:
    """One suite: the runs, their values on the common items, and every other run against the first.

    Attributes:
        n: common items; `left_out` says per run how many of its items are not among them.
        values: run -> metric -> value on the common items; None where it is undefined.
        note: in what the runs' answers were made differently (sampling), so that the checkpoint is not all that differs; "" if in nothing.
    """

    suite: str
    data: str
    variant: str
    n: int
    left_out: Mapping[str, int]
    titles: Mapping[str, str]
    units: Mapping[str, str]
    better: Mapping[str, bool | None]
    headline: frozenset[str]
    values: Mapping[str, Mapping[str, float | None]]
    pairings: tuple[Pairing, ...]
    note: str = ""


def compare(runs: Sequence[Run], suites: Sequence[str] | None = None) -> tuple[list[Comparison], list[str]]:
    """Compare the first run with each of the others, on every suite, data and variant that all of them have.

    Returns:
        The comparisons, and a sentence for each thing that could not be compared, with the reason.

    Raises:
        BadInputError: fewer than two runs, or nothing was scored for all of them.
    """
    if len(runs) < 2:
        raise BadInputError("a comparison needs at least two runs")
    runs = distinct(given := runs)
    if len(runs) < len(given):
        raise BadInputError("a run appears twice in the comparison")
    by_run: dict[str, dict[tuple[str, str, str], Compared]] = {}
    comparisons, reasons = [], []
    for run in runs:
        usable, unusable = scored(run)
        reasons += unusable
        by_run[run.name] = {}
        for score in usable:
            if suites and score.record.suite not in suites:
                continue
            if not score.items.exists():
                reasons.append(f"{run.name}: {score.items.name} is missing, so {score.label} cannot be compared")
                continue
            try:
                by_run[run.name][score.key] = Compared(score, read_rows(score.items))
            except BadInputError as error:
                reasons.append(f"{run.name}: {score.items.name}: {error.problem}, so {score.label} cannot be compared")
    keys = list(dict.fromkeys(key for by_key in by_run.values() for key in by_key))
    for key in keys:
        label = next(by_key[key].scored.label for by_key in by_run.values() if key in by_key)
        absent = [name for name, by_key in by_run.items() if key not in by_key]
        if absent:
            reasons.append(f"{label}: not scored for {', '.join(absent)}")
            continue
        shared = [by_key[key] for by_key in by_run.values()]
        settings = {str(compared.scored.record.settings) for compared in shared}
        files = {str(compared.scored.record.files) for compared in shared}
        if len(settings) > 1 or len(files) > 1:
            reasons.append(f"{label}: scored with different {'settings' if len(settings) > 1 else 'benchmark files'}")
            continue
        if differs := _unlike(shared, PARSER):
            reasons.append(f"{label}: scored differently: {differs}")
            continue
        whole_groups = benchmark_of(shared[0].scored.record).whole_groups
        groups = [{item: row.group for item, row in compared.rows.items()} for compared in shared]
        common = paired_items(groups, whole_groups=whole_groups)
        if not common:
            reasons.append(f"{label}: no item was scored for all")
            continue
        try:
            comparisons.append(_compare(key, shared, common))
        except HarnessError as error:
            reasons.append(f"{label}: {error.problem}")
    if not comparisons:
        raise BadInputError(
            "there is nothing to compare: " + ("; ".join(reasons) or "nothing was scored"),
            remedy="harness eval --run A,B --suite ... evaluates both on the same data",
        )
    return comparisons, reasons


def _unlike(shared: Sequence[Compared], part: str) -> str:
    """Which condition of a run differs from the first run's, see `harness.analysis.conditions`; "" if none does."""
    first, *others = shared
    for other in others:
        if differs := unlike_conditions(conditions_of(other.scored.record), conditions_of(first.scored.record), part):
            return f"{other.run} has {differs} as {first.run}"
    return ""


def _compare(key: tuple[str, str, str], shared: Sequence[Compared], common: set[str]) -> Comparison:
    suite, data, variant = key
    benchmark = benchmark_of(shared[0].scored.record)
    judged = verdicts(shared[0].scored.record)
    order = [item for item in shared[0].rows if item in common]
    counts = {compared.run: Counts.of(sample_scores(compared.rows, order)) for compared in shared}
    for name, counted in counts.items():
        if reason := unlike(benchmark.aggregate, counted.totals()):
            raise BadInputError(f"{name}: {reason}")
    if len({str(sorted((item, compared.rows[item].group) for item in common)) for compared in shared}) > 1:
        raise BadInputError("the same items have different images")
    values = {
        name: {
            metric: float(value) if math.isfinite(value) else None
            for metric, value in benchmark.aggregate(counted.totals()).items()
        }
        for name, counted in counts.items()
    }
    first = shared[0]
    differences = {other.run: paired(counts[other.run], counts[first.run], benchmark.aggregate) for other in shared[1:]}
    # Several runs against one are several chances to find something: Holm's correction, metric by metric.
    metrics = list(dict.fromkeys(metric for gaps in differences.values() for metric in gaps))
    corrected: dict[str, dict[str, float]] = {name: {} for name in differences}
    for metric in metrics:
        for name, p in holm({name: gaps[metric].p for name, gaps in differences.items() if metric in gaps}).items():
            corrected[name][metric] = p
    specs = {spec.id: spec for spec in benchmark.metrics}
    return Comparison(
        suite,
        data,
        variant,
        len(order),
        {compared.run: len(compared.rows) - len(order) for compared in shared},
        {name: spec.title for name, spec in specs.items()},
        {name: spec.unit for name, spec in specs.items()},
        {name: spec.higher_is_better for name, spec in specs.items()},
        frozenset(name for name, spec in specs.items() if spec.headline),
        values,
        tuple(
            Pairing(
                other.run,
                differences[other.run],
                corrected[other.run],
                _flips(first, other, order, judged),
                tuple(_changes(first, other, order, judged)),
            )
            for other in shared[1:]
        ),
        f"answered differently: {differs}" if (differs := _unlike(shared, ANSWERS)) else "",
    )


def _flips(first: Compared, other: Compared, order: Sequence[str], judged: Judged) -> tuple[int, int, float] | None:
    pairs = [
        (is_right(judged(first.rows[item].written())), is_right(judged(other.rows[item].written()))) for item in order
    ]
    both = [(was, now) for was, now in pairs if was is not None and now is not None]
    return mcnemar([was for was, _ in both], [now for _, now in both]) if both else None


def _changes(first: Compared, other: Compared, order: Sequence[str], judged: Judged) -> list[ItemChange]:
    """Changed items, those with most new or cured hallucinations first."""
    changes = []
    for item in order:
        row_before, row_after = first.rows[item], other.rows[item]
        before, after = _labels(row_before, judged), _labels(row_after, judged)
        change = ItemChange(
            item,
            row_before.prompt,
            (row_before.text, row_after.text),
            *(tuple(sorted(names)) for names in (after[0] - before[0], before[0] - after[0], before[1] - after[1], after[1] - before[1])),
        )  # fmt: skip
        if change.size:
            changes.append(change)
    return sorted(changes, key=lambda change: (-len(change.new) - len(change.cured), -change.size, change.item))


def _labels(row: ItemRow, judged: Judged) -> tuple[set[str], set[str]]:
    """Hallucinated and right labels of an item; for a yes/no question its answer."""
    wrong = {piece.label for piece in row.evidence if piece.verdict == "hallucinated"}
    right = {piece.label for piece in row.evidence if piece.verdict == "correct"}
    if (correct := is_right(judged(row.written()))) is not None:
        (right if correct else wrong).add(f"answer {row.details.get('said') or 'unreadable'}")
    return wrong, right - wrong


def as_json(comparisons: Sequence[Comparison], reasons: Sequence[str], changes: int) -> dict[str, Any]:
    """JSON-able values, with at most `changes` changed items per pairing."""
    return {
        "not_compared": list(reasons),
        "comparisons": [
            {
                "suite": comparison.suite,
                "data": comparison.data,
                "variant": comparison.variant,
                "n": comparison.n,
                "left_out": dict(comparison.left_out),
                **({"note": comparison.note} if comparison.note else {}),
                "values": {run: dict(values) for run, values in comparison.values.items()},
                "pairings": [
                    {
                        "other": pair.other,
                        "differences": {
                            name: asdict(difference) | {"p_holm": pair.corrected[name]}
                            for name, difference in pair.differences.items()
                        },
                        "flips": None
                        if pair.flips is None
                        else dict(zip(("only_first_right", "only_other_right", "p_mcnemar"), pair.flips, strict=True)),
                        "changed": len(pair.changes),
                        "changes": [change.as_json() for change in pair.changes[:changes]],
                    }
                    for pair in comparison.pairings
                ],
            }
            for comparison in comparisons
        ],
    }
