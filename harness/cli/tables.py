"""Tables that the commands print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.analysis.leaderboard import Board, explained, tables
from harness.analysis.text_table import TextTable
from harness.cli.grids import PROSE_WIDTH, print_grid
from harness.core import registry
from harness.core.errors import HarnessError
from harness.core.grid import Grid
from harness.core.plugins import attributed
from harness.core.terminal import Console

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


def print_text_tables(tables: Sequence[TextTable]) -> None:
    """Print tables whose cells are texts."""
    for text_table in tables:
        grid = Grid(text_table.title, text_table.note)
        for place, head in enumerate(text_table.heads):
            grid.column(head, "right" if place else "left")
        for row in text_table.rows:
            grid.row(*row)
        print_grid(grid)


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
