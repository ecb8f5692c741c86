"""A table whose cells are text already, as the terminal and the report show it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextTable:
    """`heads` names the columns, `rows` has as many cells a row; `note` explains them in a sentence below."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str
