"""From run folders to boards: every score with its interval, its difference to the base, and notes for the reader."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from harness.analysis.conditions import Conditions, conditions_of
from harness.analysis.declared import benchmark_of, known, suite_place
from harness.analysis.leaderboard.board import BASE, Board, Cell, Part, Row, World, column_of, column_of_spec
from harness.analysis.leaderboard.captions import caption_of
from harness.analysis.leaderboard.kept import kept
from harness.analysis.leaderboard.marks import add_differences
from harness.analysis.scored import EVALUATE, Scored, scored, unlike
from harness.core.declared import MatchedForm
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import sha256_json
from harness.core.progress import progress_of_many
from harness.core.stats import Aggregate, gaps, intervals
from harness.core.worlds import find_world
from harness.records.counts import ItemCounts
from harness.records.matched import MatchedRates, cut
from harness.records.score_files import MetricRecord, ScoresRecord
from harness.records.sums import Sums, read_sums
from harness.runs.folders import Run, distinct, list_runs

GroupBy = Literal["base", "data"]


class _Value(NamedTuple):
    """A metric's value, its interval, and their unit."""

    value: float | None
    ci: tuple[float, float] | None
    unit: str

    @staticmethod
    def of(record: MetricRecord) -> _Value:
        return _Value(record.value, (record.ci[0], record.ci[1]) if record.ci else None, record.unit)


def collect(
    runs: Path | Sequence[Run],
    *,
    group_by: GroupBy = "base",
    suites: Sequence[str] | None = None,
    left_out: list[str] | None = None,
) -> list[Board]:
    """Boards of everything that was scored.

    Args:
        runs: complete runs, or a folder of them.
        group_by: a board for every base model and data set, or for every data set.
        suites: use the scores of these suites only.
        left_out: a sentence for each run that could not be used is added to it.

    Raises:
        BadInputError: nothing was scored.
    """
    where = str(runs) if isinstance(runs, Path) else ", ".join(sorted({str(run.path.parent) for run in runs}))
    chosen = list_runs(runs) if isinstance(runs, Path) else list(runs)
    grouped: dict[World, list[tuple[str, Run, Scored]]] = defaultdict(list)
    reasons: list[str] = [] if left_out is None else left_out
    for run in distinct(chosen):
        usable, unusable = scored(run)
        reasons += unusable
        for score in usable:
            if suites is None or score.record.suite in suites:
                model = score.record.model if group_by == "base" else ""
                grouped[model, score.record.data].append((run.name, run, score))
    if not grouped:
        raise BadInputError(
            "nothing was scored yet" + (f": {'; '.join(reasons)}" if reasons else ""),
            where=where,
            remedy=EVALUATE,
        )
    return [_board(model, data, found) for (model, data), found in sorted(grouped.items())]


def _board(model: str, data: str, scores: Sequence[tuple[str, Run, Scored]]) -> Board:
    rows: dict[str, Row] = {}
    described: dict[tuple[str, str], dict[str, Scored]] = defaultdict(dict)
    forms: dict[str, MatchedForm] = {}
    notes: list[str] = []
    with progress_of_many("scores", len(scores)) as advance:
        parts = []
        for _, run, score in scores:
            parts.append(_part(score, run, notes))
            advance()
    for (name, run, score), part in zip(scores, parts, strict=True):
        record = score.record
        row = rows.setdefault(name, Row(name, record.method, record.model, (name,), configuration(run)))
        if part is not None:
            row.parts[record.suite, record.variant, False] = (part,)
        benchmark = known(record)
        if benchmark is not None and benchmark.matched is not None and benchmark.matched.beside in record.metrics:
            described[record.suite, record.variant][name] = score
            forms[record.suite] = benchmark.matched
        specs = {spec.id: spec for spec in benchmark.metrics} if benchmark is not None else {}
        made = _rules(record), conditions_of(record)
        for metric, about in record.metrics.items():
            column = column_of(record.suite, record.variant, metric, about, specs.get(metric))
            row.cells[column] = _cell(_Value.of(about), record.n, record.of, made, part)
    words = [_add_matched(rows, key, group, forms[key[0]], notes) for key, group in described.items()]
    ordered = sorted(rows.values(), key=lambda row: (row.model, row.method != BASE))
    columns = list(dict.fromkeys(column for row in ordered for column in row.cells if column.headline))
    # The column at matched length follows the plain one.
    first = {(suite, form.beside) for suite, form in forms.items()}
    columns.sort(
        key=lambda column: (
            suite_place(column.suite),
            not column.matched and (column.suite, column.metric) not in first,
        )
    )
    records = [score.record for _, _, score in scores]
    models = list(dict.fromkeys(row.model for row in ordered))
    seedless = (_seedless(model) if model else "", seedless_data(records[0]))
    caption = caption_of(records, words)
    board = Board(model or ", ".join(models), data, ordered, columns, caption, seedless, _embedded(records[0]), notes)
    add_differences(board)
    return board


def _rules(record: ScoresRecord) -> str:
    """What two scores must share to be ranked: data, settings, benchmark files, and how many items were asked."""
    return sha256_json([record.data, record.settings, record.files, record.n + record.unscored])


def _part(score: Scored, run: Run, notes: list[str]) -> Part | None:
    """The items behind a run's scores of a suite; None, with a note, if they cannot be read or are not the scored ones."""
    record = score.record
    if not score.items.exists():
        notes.append(
            f"{score.run}: {score.items.name} is missing, so there are no differences from the base for {score.label}"
        )
        return None
    try:
        benchmark = benchmark_of(record)
        aggregate = benchmark.aggregate
        sums = read_sums(score.items)
        reason = _other_items(sums, record) or unlike(aggregate, sums.totals)
    except BadInputError as error:
        reason = f"{score.items.name}: {error.problem}"
    except HarnessError as error:
        reason = error.problem
    if reason:
        notes.append(f"{score.run}: {score.label}: no differences from the base: {reason}")
        return None
    part = _part_of(record, aggregate, sums, whole_groups=benchmark.whole_groups)
    return replace(part, weights=run.manifest.base.fingerprint if run.manifest else None)


def _other_items(sums: Sums, record: ScoresRecord) -> str:
    """Why an item file is not the one that the scores were computed from; "" if it is."""
    if sums.size != record.n:
        return f"{sums.path.name} has {sums.size} scored items, but the scores say {record.n}"
    for name, total in (record.counts or {}).items():
        if not math.isclose(total, sums.totals.get(name, 0.0), rel_tol=1e-9, abs_tol=1e-9):
            return f"{sums.path.name} is not what was scored: its {name} sums to {sums.totals.get(name, 0.0):g}, not to {total:g}"
    return ""


def _part_of(
    record: ScoresRecord, aggregate: Aggregate, items: ItemCounts | Sums, form: str = "", *, whole_groups: bool = False
) -> Part:
    rules = sha256_json([record.settings, record.files, *([form] if form else [])])
    return Part((record.model, record.data), rules, aggregate, items, conditions_of(record), whole_groups)


def _cell(about: _Value, n: int, of: int, made: tuple[str, Conditions], part: Part | None) -> Cell:
    """A cell; `made`: the rules and the conditions of its score."""
    value, ci = about.value, about.ci
    notes = []
    if n != of:
        notes.append(f"{n} of {of} items")
    if value is None:
        notes.append("undefined: the denominator is 0 on these items")
    elif ci is None:
        notes.append("no interval: a bootstrap over images needs more than one image")
    elif about.unit == "%" and ci[0] == ci[1] and value in (0.0, 1.0) and part is not None:
        images = part.items.images
        notes.append(
            f"the same for all {images} images, so the bootstrap interval has width 0; "
            f"up to {min(100.0, 300 / images):.1f} % of all images may differ (rule of three)"
        )
    rules, conditions = made
    return Cell(value, ci, n, of, rules, notes=tuple(notes), conditions=conditions)


def _add_matched(
    rows: Mapping[str, Row],
    key: tuple[str, str],
    group: Mapping[str, Scored],
    form: MatchedForm,
    notes: list[str],
) -> float | None:
    """Put a suite's figures at matched length into the rows; returns the mean number of words, or None if nothing can be matched."""
    suite, variant = key
    if len(group) < 2 or not all((suite, variant, False) in rows[name].parts for name in group):
        return None
    sums = {name: rows[name].parts[suite, variant, False][0].items for name in group}
    matched = cut({name: item_sums.described() for name, item_sums in sums.items() if isinstance(item_sums, Sums)})
    if matched is None:
        title = next(iter(group.values())).record.metrics[form.beside].title
        reason = "the checkpoints answered different items, or too many mentions have no position"
        notes.append(f"{suite}: no {title} at matched length: {reason}")
        return None
    aggregate = MatchedRates(form).aggregate
    for name, counts in matched.counts.items():
        record = group[name].record
        weights = rows[name].parts[suite, variant, False][0].weights
        part = replace(_part_of(record, aggregate, counts, form.responses.id), weights=weights)
        bounds = kept("intervals", [(part,)], [], functools.partial(_intervals, part), (gaps, _intervals))
        values = aggregate({name: np.asarray(total) for name, total in counts.totals.items()})
        for spec in form.metrics:
            column = column_of_spec(suite, spec, variant, matched=True)
            value = float(values[spec.id])
            about = _Value(value if math.isfinite(value) else None, bounds.get(spec.id), spec.unit)
            rows[name].cells[column] = _cell(about, counts.size, counts.size, (_rules(record), part.conditions), part)
            rows[name].parts[column.sheet] = (part,)
    return matched.words


def _intervals(part: Part) -> dict[str, tuple[float, float] | None]:
    return intervals(part.counts, part.aggregate)


def configuration(run: Run) -> dict[str, Any]:
    """The run's resolved configuration without seeds: equal for runs that differ only in their seed.

    The training seed is left out, and so is the seed of an embedded world, which determines model, pictures and preference pairs.
    """
    manifest = run.manifest
    config = dict((manifest.config if manifest else None) or {"run": run.name})
    if manifest is not None and manifest.kind == "imported":
        config["run"] = run.name  # how the answers were made is not known, so two such runs are never two seeds
    config.pop("location", None)  # follows from the model
    for key in ("model", "data"):
        if isinstance(config.get(key), str):
            config[key] = _seedless(config[key])
    if isinstance(settings := config.get("settings"), dict):
        train = {name: value for name, value in settings.get("train", {}).items() if name != "seed"}
        if isinstance(balance := train.get("balance"), dict) and isinstance(held_out := balance.get("data"), str):
            train["balance"] = {**balance, "data": _seedless(held_out)}
        config["settings"] = {**settings, "train": train}
    return config


def _seedless(label: str) -> str:
    """A label of a model or of preference data without the seed of an embedded world (`pocket:6@rlhf-v`: `pocket@rlhf-v`); any other label
    as it is."""
    start, named, of = label.partition("@")
    world = find_world(start)
    return f"{world.name}{named}{of}" if world else label


def seedless_data(record: ScoresRecord) -> str:
    """The data's name without the seed of an embedded world."""
    name, _, split = (record.source or "").partition("@")
    world = find_world(name)
    return f"{world.name}-{split or 'test'}" if world else record.data


def _embedded(record: ScoresRecord) -> bool:
    return find_world((record.source or "").partition("@")[0]) is not None
