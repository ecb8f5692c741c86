"""How the commands print a table."""

from __future__ import annotations

from rich.text import Text

from harness.core.grid import Grid
from harness.core.terminal import Console

PROSE_WIDTH = 150
"""A paragraph below a table is at most this wide, so that it can be read in a file too."""


def print_grid(grid: Grid, console: Console | None = None) -> None:
    """Print a table in as many parts as the terminal's width demands, and its caption."""
    console = console or Console()
    for table in grid.tables(console.width):
        console.print(table)
    if grid.caption:
        console.print(Text(grid.caption, style="dim"), width=PROSE_WIDTH)
