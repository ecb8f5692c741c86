"""What the commands print for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import registry
from harness.errors import HarnessError
from harness.leaderboard import ARROW, Board, shown, tables


def print_boards(boards: Sequence[Board]) -> None:
    """Every board, as wide as the terminal allows."""
    console = Console()
    for board in boards:
        for table in tables(board, console.width):
            console.print(table)


def print_records(records: Sequence[dict[str, Any]]) -> None:
    """A table for every suite and checkpoint."""
    for record in records:
        print_record(record)


def print_record(record: dict[str, Any]) -> None:
    """One suite's metrics with intervals and, where the official script prints them, its own digits."""
    of = "" if record["n"] == record["of"] else f" of {record['of']}"
    variant = f" [{record['variant']}]" if record["variant"] else ""
    title = f"{record['title']}{variant}: {record.get('target', 'responses')}, n = {record['n']}{of}"
    official = any(metric["official"] is not None for metric in record["metrics"].values())
    table = Table(title=escape(title), title_justify="left", caption_justify="left")
    table.add_column("metric")
    table.add_column("value (95 % interval)", justify="right")
    if official:
        table.add_column("official script prints", justify="right")
    for name, metric in record["metrics"].items():
        if metric["value"] is None:
            continue
        row = [escape(f"{name} {ARROW[metric['higher_is_better']]}".strip()), shown(metric, metric["unit"])]
        table.add_row(*row, *([metric["official"] or ""] if official else []))
    notes = [f"judge: {record['judge'].get('model') or record['judge']['judge']}"] if record["judge"] else []
    if record["unscored"]:
        notes.append(f"{record['unscored']} items had no verdict")
    if undefined := [name for name, metric in record["metrics"].items() if metric["value"] is None]:
        notes.append(f"{len(undefined)} metrics are undefined on these items")
    table.caption = "; ".join(notes) or None
    Console().print(table)


def print_pooled(rows: Sequence[dict[str, Any]]) -> None:
    """Seeds of one method together."""
    if not rows:
        return
    table = Table(
        title="All seeds together (mean over seeds; 95 % interval by bootstrap over seeds' images)",
        title_justify="left",
    )
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


def listing() -> list[dict[str, Any]]:
    """Everything that has a name: kind, name, what it is, where it comes from."""
    from harness.models import aliases

    rows = [
        {"kind": "models", "name": ref.label, "about": ref.source, "from": "vlm-align-harness"}
        for ref in aliases().values()
    ]
    for group, kind in (
        ("aligners", "methods"),
        ("benchmarks", "benchmarks"),
        ("backends", "backends"),
        ("judges", "judges"),
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
    """What a registered class says of itself, or why it cannot be loaded."""
    try:
        found = registry.load(group, name)  # type: ignore[arg-type]
    except HarnessError as error:
        return f"cannot be loaded: {error.problem}"
    if group == "backends" and (reason := found.missing()):
        return f"not usable here: {reason}"
    words = [str(getattr(found, part)) for part in ("title", "summary", "source") if getattr(found, part, None)]
    return "; ".join(words) or str(found.__doc__ or "").strip().splitlines()[0]


def print_listing(rows: Sequence[dict[str, Any]]) -> None:
    """One table a kind."""
    console = Console()
    for kind in dict.fromkeys(row["kind"] for row in rows):
        table = Table(title=kind, title_justify="left")
        for heading in ("name", "what it is", "from"):
            table.add_column(heading)
        for row in rows:
            if row["kind"] == kind:
                table.add_row(row["name"], row["about"], row["from"])
        console.print(table)
