"""Tables that the commands print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.analysis.leaderboard import ARROW, Board, explained, tables
from harness.analysis.leaderboard.board import written, written_interval
from harness.analysis.reliance import reliance_tables
from harness.analysis.text_table import TextTable
from harness.cli.grids import PROSE_WIDTH, print_grid
from harness.core import registry
from harness.core.errors import HarnessError
from harness.core.grid import Grid
from harness.core.plugins import attributed
from harness.core.progress import duration
from harness.core.terminal import Console
from harness.records.answer_files import ShardRecord
from harness.records.changed_scores import ChangedScoresRecord
from harness.records.score_files import JudgeRecord, MetricRecord, SpreadRecord, SuiteScores

if TYPE_CHECKING:
    from harness.records.run_files import VerificationRecord


def print_boards(boards: Sequence[Board], deltas: bool = False) -> None:
    """Every board, as wide as the terminal allows."""
    console = Console()
    for board in boards:
        for grid in tables(board, console.width, deltas):
            print_grid(grid, console)
        # Below the tables, not a caption of the last: that one may be narrow, and the words are about all.
        console.print(Text("\n".join(explained(board)) + "\n", style="dim"), width=PROSE_WIDTH)


def print_records(records: Sequence[SuiteScores | ShardRecord]) -> None:
    """Print a table for every suite and checkpoint, and one for changed pictures if there are any. Of shards, a line each."""
    for record in records:
        if isinstance(record, SuiteScores) and not isinstance(record, ChangedScoresRecord):
            print_record(record)
    print_text_tables(reliance_tables([record for record in records if isinstance(record, ChangedScoresRecord)]))
    if shards := [record for record in records if isinstance(record, ShardRecord)]:
        print_shards(shards)


def print_text_tables(tables: Sequence[TextTable]) -> None:
    """Print tables whose cells are texts."""
    for text_table in tables:
        grid = Grid(text_table.title, text_table.note)
        for place, head in enumerate(text_table.heads):
            grid.column(head, "right" if place else "left")
        for row in text_table.rows:
            grid.row(*row)
        print_grid(grid)


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
        notes.append(f"{len(undefined)} metrics are undefined on these items")
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


def print_verified(record: VerificationRecord) -> None:
    """Print every probe on both sides, the differences with what to check, and the verdict."""
    serving, console = record.serving or {}, Console()
    title = f"{record.checkpoint}: {serving['distribution']} and transformers, {serving['dtype']}"
    grid = Grid(title)
    for heading in ("probe", "picture", "prompt tokens", "ids same", "greedy tokens", "tokens same", "largest Δ log p"):
        grid.column(heading, "left" if heading == "picture" else "right")
    for row in record.probes or ():
        near = f" + {row.near_ties} near ties" if row.near_ties else ""
        grid.row(
            str(row.probe),
            "x".join(map(str, row.size)),
            str(row.prompt_tokens),
            "yes" if row.same_ids else Text("no", style="red"),
            str(row.tokens),
            "–" if row.same_tokens is None else f"{row.same_tokens}{near}",
            "–" if row.largest is None else f"{row.largest:.1e}",
        )
    print_grid(grid, console)
    changes = record.adapter_changes
    effect = "" if changes is None else f"; the adapter changes log-probabilities by up to {changes:.2g}"
    if record.same:
        largest = f"{record.largest:.1e} at most, tolerance {record.tolerance:g}"
        lines = [f"[green]passed[/green]: served as it was trained (log-probabilities differ by {largest}{effect})"]
    else:
        lines = [f"[red]failed[/red]: {len(record.findings or ())} findings{effect}"]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    for line in (*(record.findings or ()), *(record.notes or ())):
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


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
            "time ?: unknown, because this backend has not yet answered questions with this model on these data"
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


def print_answers(answers: dict[str, str]) -> None:
    """Print one answer as it is, or several side by side with the objects that not all of them name in coloured brackets."""
    console = Console()
    if len(answers) == 1:
        console.print(Text(next(iter(answers.values()))))
        return
    from benchmarks.objects import make_extractor, read_vocabulary

    per_answer = make_extractor("spacy", read_vocabulary()).mentions(list(answers.values()))
    shared = set.intersection(*({mention.label for mention in mentions} for mentions in per_answer))
    table = Table(caption=escape("[in brackets]: objects that only one of the two mentions"), caption_justify="left")
    cells = []
    for (name, text), mentions in zip(answers.items(), per_answer, strict=True):
        table.add_column(escape(name), ratio=1)
        cell, at = Text(), 0
        for mention in mentions:
            if mention.label not in shared and mention.span:
                start, end = mention.span
                cell.append(text[at:start]).append(f"[{text[start:end]}]", style="bold yellow")
                at = end
        cells.append(cell.append(text[at:]))
    table.add_row(*cells)
    console.print(table, width=PROSE_WIDTH)


def print_data_sets(rows: Sequence[dict[str, Any]]) -> None:
    """Print every known data set: contents, size, source, licence, and whether it is downloaded."""
    console = Console()
    marks = {"yes": "[green]here[/green]", "in part": "[yellow]in part[/yellow]", "no": "[dim]not here[/dim]"}
    for row in rows:
        needs = f"; needs {', '.join(row['needs'])}" if row["needs"] else ""
        console.print(f"[bold]{row['name']}[/bold]  {marks[row['here']]}  {escape(row['size'])}", highlight=False)
        console.print(f"    {escape(row['title'])}{needs}", highlight=False)
        console.print(f"    [dim]{escape(row['source'])}; licence: {escape(row['licence'])}[/dim]", highlight=False)
        urls = [file["url"] for file in row["files"]] + row["archives"]
        places = sorted({"/".join(url.split("/")[:5]) for url in urls}) or [row["folder"]]
        console.print(f"    [dim]{escape(', '.join(places))}[/dim]", soft_wrap=True, highlight=False)
    console.print(
        "\nharness data get NAME downloads, import FOLDER imports local files, check NAME verifies; --json has URLs and checksums"
    )


def print_files(rows: Sequence[dict[str, Any]]) -> None:
    """Print the files of data sets: whether each exists, and what to do if not."""
    console = Console()
    marks = {"there": "[green]✓ there[/green]", "missing": "[yellow]– missing[/yellow]", "wrong": "[red]✗ wrong[/red]"}
    for name in dict.fromkeys(row["data"] for row in rows):
        console.print(f"[bold]{name}[/bold]")
        for row in rows:
            if row["data"] == name:
                console.print(f"  {marks[row['state']]}  {escape(row['file'])}", soft_wrap=True, highlight=False)
                if row["note"]:
                    console.print(f"           [dim]{escape(row['note'])}[/dim]", soft_wrap=True, highlight=False)


def listing() -> list[dict[str, Any]]:
    """Everything that `harness list` shows: kind, name, description, package."""
    from aligners.training import families
    from harness.alignment.recipes import shipped, summary_of
    from harness.models import aliases

    rows: list[dict[str, Any]] = []
    for ref in aliases().values():
        aligned = ref.world is not None or ref.family in families.FAMILIES
        can = "align, eval" if aligned else "eval"
        about = f"{ref.family}: {can}; {ref.source}" if ref.family else f"{can}; {ref.source}"
        names = {"name": ref.label, "about": about, "from": registry.OWN_DISTRIBUTION}
        rows.append({"kind": "models", **names, "family": ref.family, "aligned": aligned})
    recipes = {name: summary_of(file) for name, file in shipped().items()}
    rows += [
        {"kind": "recipes", "name": name, "about": about, "from": registry.OWN_DISTRIBUTION}
        for name, about in recipes.items()
    ]
    for row in families.rows():
        about = f"{row['models']}: {row['can']}" + (f"; {row['about']}" if row["about"] else "")
        rows.append(
            {"kind": "families", "name": row["family"], "from": registry.OWN_DISTRIBUTION, **row, "about": about}
        )
    for group, kind in (
        ("aligners", "methods"),
        ("benchmarks", "benchmarks"),
        ("backends", "backends"),
        ("judges", "judges"),
        ("candidate_judges", "candidate-judges"),
        ("worlds", "worlds"),
    ):
        for name, entry in registry.entries(group).items():  # type: ignore[arg-type]
            rows.append(
                {
                    "kind": kind,
                    "name": name,
                    "about": _about(group, name),
                    "from": f"{entry.distribution} {entry.version}",
                    "target": entry.target,
                }
            )
    return rows


def _about(group: str, name: str) -> str:
    """A registered class's description, or why it cannot be loaded."""
    try:
        with attributed():
            registered = registry.load(group, name)  # type: ignore[arg-type]
            reason = registered.missing() if group == "backends" else None
    except HarnessError as error:
        return f"cannot be loaded: {error}"
    if reason:
        return f"not usable here: {reason}"
    words = [
        str(getattr(registered, part)) for part in ("title", "summary", "source") if getattr(registered, part, None)
    ]
    return "; ".join(words) or str(registered.__doc__ or "").strip().splitlines()[0]


def print_listing(rows: Sequence[dict[str, Any]]) -> None:
    """One table per kind."""
    console = Console()
    for kind in dict.fromkeys(row["kind"] for row in rows):
        table = Table(title=kind, title_justify="left")
        for heading in ("name", "what it is", "from"):
            table.add_column(heading, overflow="fold")
        for row in rows:
            if row["kind"] == kind:
                table.add_row(row["name"], row["about"], row["from"])
        console.print(table)
