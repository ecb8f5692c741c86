"""Modality balance as columns of a leaderboard, which are shown only if they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.analysis.balance import balance_records
from harness.analysis.leaderboard.board import Board, Cell, Column
from harness.core.errors import BadInputError
from harness.core.files import sha256_json
from harness.records.balance_file import BalanceRecord, Mean
from harness.runs.folders import Run, distinct, list_runs

BALANCE = "balance"
"""The metric that selects all of these columns."""
_TITLES = {"text": "text margin", "image": "image margin", "ratio": "image / text"}
_UNITS = {"text": "reward", "image": "reward", "ratio": "ratio"}


def add_balance(
    boards: Sequence[Board], runs: Path | Sequence[Run], metrics: Sequence[str], left_out: list[str]
) -> list[str]:
    """Add the margins that were measured at the end of each run to its row, if a metric names them.

    Args:
        boards: as `collect` made them of the runs, not pooled.
        runs: complete runs, or a folder of them.
        metrics: the metrics that the user asked for.
        left_out: a sentence for each unusable record is added to it.

    Returns:
        The metrics; `balance` is replaced by the keys of all its columns.

    Raises:
        BadInputError: margins are asked for, and no run has any.
    """
    if not any(metric == BALANCE or metric.startswith((f"{BALANCE}.", f"{BALANCE}[")) for metric in metrics):
        return list(metrics)
    measured: dict[str, list[BalanceRecord]] = {}
    for run in distinct(list_runs(runs) if isinstance(runs, Path) else runs):
        measured[run.name], reasons = balance_records(run)
        left_out += reasons
    columns: dict[str, None] = {}
    for row in (row for board in boards for row in board.rows):
        for record in measured.get(row.name, ()):
            for column, cell in _cells(record):
                row.cells[column] = cell
                columns[column.key] = None
    if not columns:
        raise BadInputError(
            "no margins were measured, so there is no balance to show",
            remedy="harness balance RUN --data PAIRS, or align with --set train.balance.data=PAIRS",
        )
    return [key for metric in metrics for key in (columns if metric == BALANCE else (metric,))]


def _cells(record: BalanceRecord) -> list[tuple[Column, Cell]]:
    end = record.measured[-1]
    # Margins on other pairs or with other rejected pictures are not comparable.
    rules = sha256_json([record.fingerprint, record.limit, record.seed, record.images])
    means: dict[str, Mean | None] = {"text": end.text, "image": end.image, "ratio": end.ratio}
    cells = []
    for metric, mean in means.items():
        column = Column(BALANCE, record.data, metric, _TITLES[metric], None, _UNITS[metric], headline=False)
        notes = () if mean else ("undefined: not both margins are surely above 0",)
        ci = (mean.ci[0], mean.ci[1]) if mean and mean.ci else None
        cells.append((column, Cell(mean.value if mean else None, ci, record.n, record.n, rules, notes=notes)))
    return cells
