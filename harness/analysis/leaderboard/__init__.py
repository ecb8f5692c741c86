"""The leaderboard: one row per checkpoint, one column per metric with its direction.

`collect` reads runs into boards; `pool_seeds`, `add_balance`, `add_published`, `select` and `sort` change boards; `tables` writes them.
"""

from harness.analysis.leaderboard.balance import add_balance
from harness.analysis.leaderboard.board import ARROW, Board, Cell, Column, Row
from harness.analysis.leaderboard.collect import collect
from harness.analysis.leaderboard.pool import pool_seeds
from harness.analysis.leaderboard.published import add_published, published_file, read_published
from harness.analysis.leaderboard.select import select, sort
from harness.analysis.leaderboard.tables import as_csv, as_json, as_latex, as_markdown, explained, tables
from harness.analysis.leaderboard.tax import tax, tax_json, tax_tables

__all__ = [
    "ARROW",
    "Board",
    "Cell",
    "Column",
    "Row",
    "add_balance",
    "add_published",
    "as_csv",
    "as_json",
    "as_latex",
    "as_markdown",
    "collect",
    "explained",
    "pool_seeds",
    "published_file",
    "read_published",
    "select",
    "sort",
    "tables",
    "tax",
    "tax_json",
    "tax_tables",
]
