"""Reading image reliance: scores with changed pictures next to the plain ones, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.analysis.leaderboard import ARROW
from harness.analysis.leaderboard.board import scale, written
from harness.analysis.scored import items_beside, label_of
from harness.analysis.text_table import TextTable
from harness.core.errors import BadInputError
from harness.core.files import sha256_file
from harness.core.stats import holm
from harness.records.changed_scores import ChangedScoresRecord, PicturesRecord, UnchangedRecord, read_changed_scores
from harness.runs.folders import Run

CHANGES = "noise"
"""Folder in a suite's folder; it has a folder of answers and scores for every change of the pictures."""
SURE = 0.05


def picture_of(record: ChangedScoresRecord) -> str:
    """The pictures that the model was shown, as text for tables."""
    about = record.pictures
    return f"noise {about.step}" if about.kind == "noise" else about.kind


@dataclass(frozen=True)
class Changed:
    """One run's scores of one suite with changed pictures: the record, and its file."""

    run: str
    path: Path
    record: ChangedScoresRecord

    @property
    def key(self) -> tuple[str, str, str]:
        """(suite, data, variant), as of `harness.analysis.scored.Scored`."""
        return self.record.suite, self.record.data, self.record.variant

    @property
    def label(self) -> str:
        """The key in words."""
        return label_of(*self.key)


def changed_scores(run: Run) -> tuple[list[Changed], list[str]]:
    """Every usable score file with changed pictures of a run, sorted with noise first, and a sentence for each unusable one.

    A comparison is unusable if the plain answers no longer exist or now have other scores.
    """
    changed, reasons = [], []
    for path in sorted(run.path.glob(f"evals/*/{CHANGES}/*/scores*.json")):
        place = path.relative_to(run.path)
        try:
            record = read_changed_scores(path)
        except BadInputError as error:
            reasons.append(f"{run.name}: {place}: {error.problem}")
            continue
        plain = items_beside(path.parents[2] / path.name)
        if not plain.exists() or sha256_file(plain) != record.reliance.clean_items:
            again = f"harness eval --run {run.given} --suite {record.suite} --noise {record.pictures.change}"
            reasons.append(
                f"{run.name}: {place} compares with plain answers or scores that were replaced since: {again}"
            )
            continue
        changed.append(Changed(run.name, path, record))
    return sorted(changed, key=lambda entry: (entry.key, _place(entry.record.pictures))), reasons


def _place(about: PicturesRecord) -> tuple[int, int]:
    """Sort key: noise by its step, then grey, then another item's picture."""
    return ("noise", "blank", "shuffled").index(about.kind), about.step or 0


def reliance_tables(records: Sequence[ChangedScoresRecord]) -> list[TextTable]:
    """The tables of score records with changed pictures.

    Args:
        records: score records with `target`, as `harness.evaluation.evaluate.run_eval` returns them.
    """
    groups: dict[tuple[str, ...], list[ChangedScoresRecord]] = {}
    for record in records:
        groups.setdefault((record.suite, record.variant, record.data, record.target or ""), []).append(record)
    return [_table(group) for group in groups.values()]


def _table(records: Sequence[ChangedScoresRecord]) -> TextTable:
    first = records[0]
    measured = {name for record in records for name in record.reliance.metrics}
    metrics = {name: about for name, about in first.metrics.items() if about.headline and name in measured}
    gaps = {
        f"{picture_of(record)} {name}": record.reliance.metrics[name].gap.p
        for record in records
        for name in metrics
        if name in record.reliance.metrics
    }
    sure = {key for key, p in holm(gaps).items() if p < SURE}
    heads = (
        "picture",
        "unchanged answers",
        *(f"{one.title} {ARROW[one.higher_is_better]}".strip() for one in metrics.values()),
    )
    plain = [_clean(records, name, about.unit) for name, about in metrics.items()]
    rows = [("original", "", *plain)]
    for record in records:
        cells = [
            _cell(record, name, about.unit, f"{picture_of(record)} {name}" in sure) for name, about in metrics.items()
        ]
        rows.append((picture_of(record), _share(record.reliance.unchanged), *cells))
    variant = f" [{first.variant}]" if first.variant else ""
    sizes = sorted({record.reliance.n for record in records})
    size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    title = f"Image reliance: {first.title or first.suite}{variant}, {first.target or ''} on {first.data}, n = {size}"
    note = "after the comma: changed minus original picture, with its paired 95 % interval; * p < 0.05, Holm-corrected in this table"
    return TextTable(title, heads, tuple(rows), note)


def _clean(records: Sequence[ChangedScoresRecord], name: str, unit: str) -> str:
    """The metric with the original pictures; a range if the changes leave different items without a verdict."""
    values = [one.reliance.metrics[name].clean for one in records if name in one.reliance.metrics]
    texts = list(dict.fromkeys(written(value, unit) for value in sorted(values)))
    return "–" if not texts else texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def _cell(record: ChangedScoresRecord, name: str, unit: str, sure: bool) -> str:
    metric = record.reliance.metrics.get(name)
    if metric is None:
        return "–"
    factor, digits = scale(unit)
    gap, low, high = (f"{value * factor:+.{digits}f}".replace("-", "−") for value in (metric.gap.value, *metric.gap.ci))
    return f"{written(metric.changed, unit)}, {gap}{'*' if sure else ''} ({low} to {high})"


def _share(found: UnchangedRecord) -> str:
    ci = found.ci
    return f"{100 * found.value:.1f} %" + (f" ({100 * ci[0]:.1f}–{100 * ci[1]:.1f})" if ci else "")
