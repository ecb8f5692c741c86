"""What alignment cost: each checkpoint's gains on hallucination and its gains or losses elsewhere, against its base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.analysis.declared import metric_side
from harness.analysis.leaderboard.board import BASE, Board, Column, Row, scale
from harness.analysis.leaderboard.marks import BETTER, LEVEL, WORSE
from harness.analysis.text_table import TextTable
from harness.core.errors import BadInputError

Side = Literal["hallucination", "elsewhere"]
SIDES: tuple[Side, ...] = ("hallucination", "elsewhere")


@dataclass(frozen=True)
class Gain:
    """A difference from the base with its sign turned so that more is better.

    Attributes:
        column: the metric.
        value, ci: gain and 95 % interval, in the metric's unit (a fraction for %), by paired bootstrap.
        p: corrected over the rows of the board (Holm).
        n: number of items that checkpoint and base share.
    """

    column: Column
    value: float
    ci: tuple[float, float]
    p: float
    n: int

    @property
    def verdict(self) -> Literal["better", "worse", "no difference"]:
        """What the test says at the level of 5 %."""
        if self.p >= LEVEL or self.value == 0:
            return "no difference"
        return "better" if self.value > 0 else "worse"


@dataclass(frozen=True)
class TaxRow:
    """An aligned checkpoint (or the seeds of a configuration)."""

    name: str
    method: str
    gains: dict[Side, list[Gain]]

    def count(self, side: Side, verdict: str) -> int:
        """How many metrics of a side have a verdict."""
        return sum(gain.verdict == verdict for gain in self.gains[side])


@dataclass(frozen=True)
class Tax:
    """A board's aligned checkpoints against their base; `notes` say what is missing."""

    title: str
    rows: list[TaxRow]
    notes: list[str]

    def columns(self, side: Side) -> list[Column]:
        """The metrics of a side that some row has."""
        return list(dict.fromkeys(gain.column for row in self.rows for gain in row.gains[side]))


def tax(boards: Sequence[Board]) -> list[Tax]:
    """The table of every board that has an aligned checkpoint with differences from its base.

    Metrics of how much is said (`MetricSpec.invented_by`) count as elsewhere: a checkpoint that says less loses them.

    Raises:
        BadInputError: there is no such board.
    """
    taxes = []
    for board in boards:
        rows = [_row(board, row) for row in board.rows if row.method != BASE and not row.published]
        if not any(row.gains[side] for row in rows for side in SIDES):
            continue
        absent = [side for side in SIDES if not any(row.gains[side] for row in rows)]
        words = {"hallucination": "of hallucination", "elsewhere": "of anything but hallucination"}
        notes = [f"no metric {words[side]} was scored for a checkpoint and its base" for side in absent]
        taxes.append(Tax(board.title, rows, [*notes, *board.notes]))
    if not taxes:
        raise BadInputError(
            "no aligned checkpoint was scored on the same suites as its base",
            remedy="score both: harness eval --suite SUITES --run NAME --base",
        )
    return taxes


def _row(board: Board, row: Row) -> TaxRow:
    gains: dict[Side, list[Gain]] = {side: [] for side in SIDES}
    for column in board.columns:
        cell = row.cells.get(column)
        if cell is None or cell.delta is None or column.higher_is_better is None or not column.ranked:
            continue
        sign = 1 if column.higher_is_better else -1
        gap = cell.delta.difference
        low, high = sorted(sign * bound + 0.0 for bound in gap.ci)  # + 0.0: no negative zero
        side: Side = "elsewhere"
        if column.invented_by is None and metric_side(column.suite, column.metric) == "hallucination":
            side = "hallucination"
        gains[side].append(Gain(column, sign * gap.value + 0.0, (low, high), cell.delta.p, cell.delta.n))
    return TaxRow(row.name, row.method, gains)


def tax_json(taxes: Sequence[Tax], left_out: Sequence[str] = ()) -> dict[str, Any]:
    """JSON-able. Gains of metrics in % are fractions."""
    return {
        "left_out": list(left_out),
        "boards": [
            {
                "board": board_tax.title,
                "notes": board_tax.notes,
                "rows": [
                    {
                        "checkpoint": row.name,
                        "method": row.method,
                        **{
                            side: {
                                "better": row.count(side, "better"),
                                "worse": row.count(side, "worse"),
                                "metrics": {
                                    gain.column.key: {
                                        "gain": gain.value,
                                        "ci": list(gain.ci),
                                        "p_holm": gain.p,
                                        "n": gain.n,
                                        "verdict": gain.verdict,
                                    }
                                    for gain in row.gains[side]
                                },
                            }
                            for side in SIDES
                        },
                    }
                    for row in board_tax.rows
                ],
            }
            for board_tax in taxes
        ],
    }


def tax_tables(taxes: Sequence[Tax]) -> list[TextTable]:
    """A table per board, one row per checkpoint: the counts of each side, then every gain with its interval."""
    tables = []
    for board_tax in taxes:
        heads = ["checkpoint", *(f"{side}: better, worse, of" for side in SIDES)]
        columns = [(side, column) for side in SIDES for column in board_tax.columns(side)]
        heads += [
            f"{_mark(side)} {column.title}{f'[{column.variant}]' if column.variant else ''}" for side, column in columns
        ]
        lines = []
        for row in board_tax.rows:
            line = [row.name]
            for side in SIDES:
                line.append(f"{row.count(side, 'better')}, {row.count(side, 'worse')}, {len(row.gains[side])}")
            for side, column in columns:
                gain = next((gain for gain in row.gains[side] if gain.column == column), None)
                line.append("–" if gain is None else _written(gain))
            lines.append(tuple(line))
        note = (
            "gains over the base, positive is better (H: hallucination, E: elsewhere), with 95 % intervals; "
            f"{BETTER} better, {WORSE} worse (paired bootstrap over images, Holm-corrected over the column, p < {LEVEL:g}). "
            "Metrics of how much is said count as elsewhere."
        )
        tables.append(
            TextTable(
                f"{board_tax.title}: what alignment gained and cost",
                tuple(heads),
                tuple(lines),
                "\n".join([note, *board_tax.notes]),
            )
        )
    return tables


def _mark(side: Side) -> str:
    return "H" if side == "hallucination" else "E"


def _written(gain: Gain) -> str:
    factor, digits = scale(gain.column.unit)
    value, low, high = (f"{one * factor:+.{digits}f}" for one in (gain.value, *gain.ci))
    mark = {"better": BETTER, "worse": WORSE}.get(gain.verdict, "")
    return f"{value}{mark}\n({low} to {high})".replace("-", "−")
