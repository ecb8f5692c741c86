"""Tables of scores, and of plans and judges of evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.analysis.leaderboard import ARROW
from harness.analysis.leaderboard.board import written, written_interval
from harness.analysis.reliance import reliance_tables
from harness.cli.grids import print_grid
from harness.cli.tables import print_text_tables
from harness.core.grid import Grid
from harness.core.progress import duration
from harness.core.terminal import Console
from harness.records.answer_files import ShardRecord
from harness.records.changed_scores import ChangedScoresRecord
from harness.records.score_files import JudgeRecord, MetricRecord, SpreadRecord, SuiteScores


def print_records(records: Sequence[SuiteScores | ShardRecord]) -> None:
    """Print a table for every suite and checkpoint, and one for changed pictures if there are any. Of shards, a line each."""
    for record in records:
        if isinstance(record, SuiteScores) and not isinstance(record, ChangedScoresRecord):
            print_record(record)
    print_text_tables(reliance_tables([record for record in records if isinstance(record, ChangedScoresRecord)]))
    if shards := [record for record in records if isinstance(record, ShardRecord)]:
        print_shards(shards)


def print_record(record: SuiteScores, *, every: bool = False) -> None:
    """Print one suite's metrics with intervals and, if there are any, the digits that the official script prints.

    Args:
        record: the scores.
        every: print all metrics, and not only those of leaderboards and of the official script.
    """
    of = "" if record.n == record.of else f" of {record.of}"
    variant = f" [{record.variant}]" if record.variant else ""
    title = f"{record.title}{variant}: {record.target or 'responses'}, n = {record.n}{of}"
    official = any(metric.official is not None for metric in record.metrics.values())
    grid = Grid(title)
    grid.column("metric", "left")
    grid.column("value (95 % interval)")
    if official:
        grid.column("official script prints")
    repeats = record.repeats
    if repeats:
        grid.column(f"mean ± sd (range) of {repeats.k} repeats")
    hidden = 0
    for name, metric in record.metrics.items():
        if metric.value is None:
            continue
        if not (every or metric.headline or metric.official is not None):
            hidden += 1
            continue
        row = [f"{name} {ARROW[metric.higher_is_better]}".strip(), _shown(metric)]
        row += [metric.official or ""] if official else []
        grid.row(*row, *([_spread(repeats.metrics.get(name), metric.unit)] if repeats else []))
    notes = [_judged(record.judge)] if record.judge else []
    if record.unscored:
        notes.append(f"{record.unscored} items have no verdict")
    notes += record.notes
    if repeats and repeats.differ is not None:
        notes.append(f"{100 * repeats.differ:.1f} % of the answers differ between the {repeats.k} repeats")
    if record.sample:
        notes.append(f"a sample of the suite: --limit {record.sample['limit']}")
    if undefined := [name for name, metric in record.metrics.items() if metric.value is None]:
        notes.append(f"{len(undefined)} metric{'s are' if len(undefined) > 1 else ' is'} undefined on these items")
    if hidden:
        notes.append(f"{hidden} more metrics: --json")
    grid.caption = "; ".join(notes)
    print_grid(grid)


def _shown(metric: MetricRecord) -> str:
    ci = (metric.ci[0], metric.ci[1]) if metric.ci else None
    return f"{written(metric.value, metric.unit)} {written_interval(ci, metric.unit)}".strip()


def _spread(metric: SpreadRecord | None, unit: str) -> str:
    """A metric over repeats, with one digit more than in its table."""
    if metric is None:
        return "–"
    factor, digits = (100, 2) if unit == "%" else (1, 3)
    mean, sd, low, high = (f"{value * factor:.{digits}f}" for value in (metric.mean, metric.sd, metric.min, metric.max))
    return f"{mean} ± {sd} ({low}–{high})"


def print_shards(rows: Sequence[ShardRecord]) -> None:
    """Print what a shard contains, and the next command."""
    console = Console()
    for row in rows:
        change = f", --noise {row.change}" if row.change else ""
        console.print(
            f"{row.target}, {row.suite}{change}: shard {row.index} of {row.count}, {row.items:,} items: {row.folder}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    for name in dict.fromkeys(row.target for row in rows):
        shards = [row for row in rows if row.target == name]
        suites = ",".join(dict.fromkeys(str(row.suite) for row in shards))
        changes = ",".join(dict.fromkeys(row.change for row in shards if row.change))
        command = f"harness merge {name} --suite {suites}" + (f" --noise {changes}" if changes else "")
        console.print(f"when all shards are done: {command}", markup=False, highlight=False)


def _change(row: dict[str, Any]) -> str:
    """How a row's pictures are changed, as the user wrote it."""
    return f", --noise {row['change']}" if row["change"] else ""


def _judged(judge: JudgeRecord) -> str:
    """The judge, and the cost of judging."""
    text = f"judge: {judge.model or judge.judge}"
    if others := [name for name in judge.answered_by or () if name != judge.model]:
        text += f" (answered as {', '.join(others)})"
    if took := judge.took:
        tokens = took["prompt_tokens"] + took["completion_tokens"]
        cost = "" if took["usd"] is None else f", ${took['usd']:.4f}"
        text += f"; {took['calls']} calls, {took['kept']} cached replies, {tokens:,} tokens{cost}"
    return text


def print_plan(rows: Sequence[dict[str, Any]]) -> None:
    """What an evaluation would do."""
    judged = any(row["judge"] for row in rows)
    grid = Grid("Plan (nothing was run)", "\n".join(_plan_notes(rows)), keys=2)
    headings = [
        "checkpoint",
        "suite",
        "items",
        "images",
        "answered",
        "to generate",
        "prompt tokens",
        "new tokens",
        "time",
    ]
    for heading in headings + (["judge", "calls", "cost"] if judged else []):
        grid.column(heading, "left" if heading in ("checkpoint", "suite", "judge") else "right")
    for row in rows:
        part = "" if row["items"] == row["of"] else f" of {row['of']:,}"
        suite = f"{row['suite']}{_change(row)}"
        cells = [row["target"], suite, f"{row['items']:,}{part}"]
        cells += [f"{row[key]:,}" for key in ("images", "answered", "to_generate")]
        cells.append("?" if row["prompt_tokens"] is None else f"≈ {row['prompt_tokens']:,}")
        known = row["new_tokens"] is not None
        cells.append(f"≈ {row['new_tokens']:,}" if known else f"≤ {row['new_tokens_at_most']:,}")
        cells.append("?" if row["seconds"] is None else f"≈ {duration(row['seconds'])}")
        if row["judge"]:
            usd = row["judge_usd_at_most"]
            cells += [row["judge"], f"{row['judge_calls']:,}", "?" if usd is None else f"≤ ${usd:.2f}"]
        grid.row(*cells, *[""] * (3 if judged and not row["judge"] else 0))
    print_grid(grid)


def _plan_notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The meaning of question marks, and the total cost of judging."""
    notes = []
    if any(row["seconds"] is None for row in rows):
        notes.append(
            "time ?: unknown, because this backend has not yet answered these suites with this model on these data"
        )
    known = [row["judge_usd_at_most"] for row in rows if row["judge"]]
    if any(usd is None for usd in known):
        notes.append("cost ?: no price is listed for this model; give it with --judge-price IN,OUT")
    elif known:
        notes.append(f"judging: at most ${sum(known):.2f}")
    return notes


def print_calibration(record: dict[str, Any]) -> None:
    """Agreement with the reference and with itself."""
    judge = record["judge"].get("model") or record["judge"]["judge"]
    grid = Grid(f"Agreement of {judge}")
    grid.column("measure", "left")
    grid.column("with the reference")
    grid.column("with itself")
    labels = {
        "n": "answers; pairs of votes",
        "exact": "same rating",
        "within_one": "ratings at most 1 apart",
        "kappa_quadratic": "quadratic kappa of the ratings",
        "same_verdict": "same verdict (hallucination or not)",
        "kappa_verdict": "kappa of the verdict",
        "mean_difference": "mean rating, judge minus reference",
    }
    for key, label in labels.items():
        cells = []
        for value in (record["reference"][key], record["itself"][key]):
            text = "–" if value is None else str(value) if key == "n" else f"{value:.3f}"
            cells.append(
                f"{100 * value:.1f} %" if key in ("exact", "within_one", "same_verdict") and value is not None else text
            )
        grid.row(label, *cells)
    notes = [f"{record['unread']} answers had no reply that could be parsed"] if record["unread"] else []
    grid.caption = "\n".join([*notes, _judged(JudgeRecord.model_validate(record["judge"]))])
    print_grid(grid)
