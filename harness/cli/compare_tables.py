"""What `harness compare` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.analysis.compare import Comparison, Pairing
from harness.analysis.leaderboard import ARROW
from harness.analysis.leaderboard.board import scale, written
from harness.cli.grids import PROSE_WIDTH, print_grid
from harness.core.grid import Grid
from harness.core.terminal import Console

_LEVEL = 0.05


def print_comparisons(comparisons: Sequence[Comparison], reasons: Sequence[str], changes: int, every: bool) -> None:
    """A table per suite and pair, then the items that changed most, side by side."""
    console = Console()
    for comparison in comparisons:
        for pair in comparison.pairings:
            print_grid(_grid(comparison, pair, every), console)
            if changes and pair.changes:
                _print_changes(console, comparison, pair, changes)
            console.print()
    for reason in reasons:
        console.print(f"[yellow]not compared:[/yellow] {escape(reason)}")


def _grid(comparison: Comparison, pair: Pairing, every: bool) -> Grid:
    first = next(iter(comparison.values))
    variant = f" [{comparison.variant}]" if comparison.variant else ""
    title = (
        f"{comparison.suite}{variant} on {comparison.data}: {pair.other} against {first}, {comparison.n} common items"
    )
    grid = Grid(title)
    for heading in ("metric", first, pair.other, "difference (95 % interval)", "p", "verdict", "detectable"):
        grid.column(heading, "left" if heading in ("metric", "verdict") else "right")
    shown = [name for name in pair.differences if every or name in comparison.headline]
    for name in shown:
        difference, p = pair.differences[name], pair.corrected[name]
        factor, digits = scale(comparison.units[name])
        low, high = (bound * factor for bound in difference.ci)
        grid.row(
            f"{comparison.titles[name]} {ARROW[comparison.better[name]]}".strip(),
            written(comparison.values[first][name], comparison.units[name]),
            written(comparison.values[pair.other][name], comparison.units[name]),
            f"{difference.value * factor:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})",
            "< 0.001" if p < 0.001 else f"{p:.3f}",
            _verdict(difference.value, p, comparison.better[name]),
            f"{difference.detectable * factor:.{digits}f}",
        )
    notes = ["p: paired bootstrap over images" + (", corrected by Holm" if len(comparison.pairings) > 1 else "")]
    notes.append("detectable: the smallest true difference that this many images show with 80 % probability")
    if not pair.differences:
        notes.append("no test is possible with fewer than two images")
    elif undefined := [
        comparison.titles[name]
        for name in comparison.titles
        if name in comparison.headline and name not in pair.differences
    ]:
        notes.append(f"undefined for one of the runs: {', '.join(undefined)}")
    if pair.flips:
        lost, won, p_flip = pair.flips
        notes.append(
            f"yes/no answers: {lost} right only in {first}, {won} only in {pair.other} (McNemar p = {p_flip:.3g})"
        )
    if comparison.note:
        notes.append(comparison.note)
    if any(comparison.left_out.values()):
        notes.append(
            "left out: " + ", ".join(f"{count} items of {run}" for run, count in comparison.left_out.items() if count)
        )
    grid.caption = ";\n".join(notes)
    return grid


def _verdict(value: float, p: float, better: bool | None) -> str | Text:
    if p >= _LEVEL:
        return "not significant"
    if better is None:
        return "higher" if value > 0 else "lower"
    return Text("▲ better", style="green") if (value > 0) == better else Text("▼ worse", style="red")


def _print_changes(console: Console, comparison: Comparison, pair: Pairing, most: int) -> None:
    first = next(iter(comparison.values))
    table = Table(
        title=f"{len(pair.changes)} of {comparison.n} items changed; the {min(most, len(pair.changes))} that changed most",
        title_justify="left",
        show_lines=True,
    )
    table.add_column("item")
    table.add_column(escape(first), ratio=2)
    table.add_column(escape(pair.other), ratio=2)
    for change in pair.changes[:most]:
        table.add_row(
            Text(f"{change.item}\n{change.prompt[:60]}", style="dim"),
            _marked(change.texts[0], change.cured, change.lost, ("cured", "lost")),
            _marked(change.texts[1], change.new, change.gained, ("new", "found")),
        )
    console.print(table, width=PROSE_WIDTH)


def _marked(text: str, wrong: Iterable[str], right: Iterable[str], words: tuple[str, str]) -> Text:
    """A response with, below it, what only this run says: hallucinations with a cross, right objects with a tick."""
    shown = Text(text[:600] + ("…" if len(text) > 600 else ""))
    for names, mark, style, word in ((wrong, "✗", "red", words[0]), (right, "✓", "green", words[1])):
        if names := list(names):
            shown.append(f"\n{mark} {word}: {', '.join(names)}", style=style)
    return shown
