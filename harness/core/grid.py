"""Tables whose cells are never cut, however narrow the terminal: columns that do not fit continue in a table below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_FRAME, _BORDER = 3, 1  # widths in characters: frame and padding of each column, and the last border
_NARROWEST = 8  # minimum width of a folded column of prose


@dataclass
class _Column:
    head: str
    justify: Literal["left", "right"]
    folds: bool
    cells: list[Text] = field(default_factory=list)

    def least(self) -> int:
        """The width without which a figure, or a word of the heading, would be cut."""
        if self.folds:
            words = [cell_len(word) for text in (self.head, *map(str, self.cells)) for word in text.split()]
            return min(_NARROWEST, max(words, default=1))
        lines = [cell_len(line) for cell in self.cells for line in str(cell).splitlines()]
        return max([*lines, *(cell_len(word) for word in self.head.split())], default=1)

    def natural(self) -> int:
        """The width at which nothing is folded."""
        lines = [cell_len(line) for text in (self.head, *map(str, self.cells)) for line in text.splitlines()]
        return max(lines, default=1)


class Grid:
    """A table that is built column by column and row by row, and printed as one or several rich tables.

    Args:
        title: above it; shown as it is, without markup.
        caption: paragraphs below it.
        lines: draw a line between rows.
        keys: number of columns at the left that every part repeats.
    """

    def __init__(self, title: str = "", caption: str = "", *, lines: bool = False, keys: int = 1) -> None:
        self.title, self.caption, self.lines, self.keys = title, caption, lines, keys
        self._columns: list[_Column] = []
        self._sections: set[int] = set()

    def column(self, head: str, justify: Literal["left", "right"] = "right", *, folds: bool = False) -> None:
        """Add a column. `folds`: its cells are prose, which may be folded onto several lines."""
        self._columns.append(_Column(head, justify, folds))

    def row(self, *cells: str | Text) -> None:
        """Add a row, with a cell for every column. Strings are shown as they are; a `Text` has its own styles."""
        for column, cell in zip(self._columns, cells, strict=True):
            column.cells.append(cell if isinstance(cell, Text) else Text(cell))

    def section(self) -> None:
        """Draw a line below the last row."""
        self._sections.add(len(self._columns[0].cells) - 1)

    def tables(self, width: int) -> list[Table]:
        """The table in as many parts as `width` (in characters) needs; the first has the title."""
        keys, others = self._columns[: self.keys], self._columns[self.keys :]
        least = [column.least() for column in keys]
        widest = max((column.least() for column in others), default=0)
        room = width - _BORDER - (widest + _FRAME if others else 0) - _FRAME * len(keys)
        if sum(least) > room:  # a name that leaves no room for figures is folded, never a figure
            least = [max(min(share, room // len(keys)), _NARROWEST) for share in least]
        parts: list[list[tuple[_Column, int]]] = [[]]
        used = begun = _BORDER + sum(least) + _FRAME * len(keys)
        for column in others:
            wanted = column.least()
            if parts[-1] and used + wanted + _FRAME > width:
                parts.append([])
                used = begun
            parts[-1].append((column, wanted))
            used += wanted + _FRAME
        return [
            self._table([*zip(keys, least, strict=True), *part], width, self.title if number == 0 else "")
            for number, part in enumerate(parts)
        ]

    def _table(self, columns: Sequence[tuple[_Column, int]], width: int, title: str) -> Table:
        table = Table(
            title=Text(title, style="table.title") if title else None, title_justify="left", show_lines=self.lines
        )
        for (column, _), size in zip(columns, _widths(columns, width), strict=True):
            table.add_column(Text(column.head), justify=column.justify, width=size, overflow="fold")
        for number, cells in enumerate(zip(*(column.cells for column, _ in columns), strict=True)):
            table.add_row(*cells, end_section=number in self._sections)
        return table


def _widths(columns: Sequence[tuple[_Column, int]], width: int) -> list[int]:
    """The width of every column: at least what it needs; the rest goes first to columns that need little more."""
    widths = [least for _, least in columns]
    spare = width - _BORDER - sum(widths) - _FRAME * len(widths)
    wishes = [column.natural() - least for column, least in columns]
    waiting = sorted((number for number, wish in enumerate(wishes) if wish > 0), key=wishes.__getitem__)
    while waiting and spare > 0:
        number = waiting.pop(0)
        given = min(wishes[number], spare // (len(waiting) + 1))
        widths[number] += given
        spare -= given
    return widths
