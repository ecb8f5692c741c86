"""Modality balance, read again: margins of text and image preference of runs, and the table that they make for people."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.text_table import TextTable
from harness.core.errors import BadInputError
from harness.core.record import check
from harness.records.balance_file import FOLDER, BalanceRecord, Mean, MeasuredRecord, read_balance
from harness.runs.folders import Run

_HEADS = ("run", "after", "steps", "text margin", "text > 0", "image margin", "image > 0", "image / text")


def balance_records(run: Run) -> tuple[list[BalanceRecord], list[str]]:
    """The usable records of a run, and a sentence for each unusable one with the reason: other weights, or a damaged file.

    What the training measured (`train.balance`) is in the manifest; a later record of `harness balance` on the same pairs replaces it.
    """
    records: list[BalanceRecord] = []
    reasons = []
    checkpoint = run.manifest.checkpoint if run.manifest else None
    weights = checkpoint.fingerprint if checkpoint else None
    if run.manifest and checkpoint and (trained := (run.manifest.summary or {}).get("balance")):
        about = {"run": run.name, "checkpoint": checkpoint.fingerprint}
        try:
            records.append(check(BalanceRecord, {**trained, **about}, "margins in its manifest", run.path))
        except BadInputError as error:
            reasons.append(f"{run.name}: {error.problem}")
    for path in sorted(run.path.glob(f"{FOLDER}/*.json")):
        place = path.relative_to(run.path)
        try:
            record = read_balance(path)
        except BadInputError as error:
            reasons.append(f"{run.name}: {place}: {error.problem}")
            continue
        if record.checkpoint != weights:
            again = f"harness balance {run.given} --data {record.data}"
            reasons.append(f"{run.name}: {place} was measured with other weights: {again}")
            continue
        records = [other for other in records if other.data != record.data]
        records.append(record.model_copy(update={"run": run.name}))
    return records, reasons


def balance_tables(records: Sequence[BalanceRecord]) -> list[TextTable]:
    """A table for each set of pairs, with a row for each measured checkpoint."""
    tables = []
    for data in dict.fromkeys(record.data for record in records):
        of_data = [record for record in records if record.data == data]
        sizes = sorted({record.n for record in of_data})
        size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        rows = tuple(_row(record.run, measured) for record in of_data for measured in record.measured)
        note = "margins: mean reward differences on held-out pairs, with 95 % intervals; – unless both are significantly above 0"
        tables.append(TextTable(f"Modality balance on {data}, n = {size}", _HEADS, rows, note))
    return tables


def _row(run: str, measured: MeasuredRecord) -> tuple[str, ...]:
    above = [f"{100 * share.value:.1f} %" for share in (measured.text_above_0, measured.image_above_0)]
    ratio = _written(measured.ratio) if measured.ratio else "–"
    return (
        run,
        measured.after,
        f"{measured.steps:,}",
        _written(measured.text),
        above[0],
        _written(measured.image),
        above[1],
        ratio,
    )


def _written(mean: Mean) -> str:
    interval = f" ({mean.ci[0]:.3f} to {mean.ci[1]:.3f})" if mean.ci else ""
    return f"{mean.value:.3f}{interval}".replace("-", "−")
