"""Everything that was scored, as tidy pandas frames, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.scored import EVALUATE, read_rows, scored
from harness.core.errors import BadInputError
from harness.runs.folders import distinct, find_run, read_runs

if TYPE_CHECKING:
    import pandas as pd

_KEY = ("run", "suite", "data", "variant")
_ITEM = ("item", "group", "prompt", "text", "unscored")
_PIECE = ("text", "label", "verdict")
"""Columns, so that a frame without a row has them, too."""


@dataclass(frozen=True)
class Frames:
    """Scores of some runs.

    Attributes:
        metrics: one row per run, suite and metric: run, method, model, suite, data, variant, metric, value (rates as fractions),
            ci_low, ci_high, higher_is_better, n, of, unscored, judge.
        items: one row per run, suite and item: run, suite, data, variant, item, group (the image), prompt, text, unscored, and a column
            for every count.
        evidence: one row per piece of evidence: run, suite, data, variant, item, text, label, verdict, start, end.
        left_out: a sentence for each thing that could not be read, with the reason.
    """

    metrics: pd.DataFrame
    items: pd.DataFrame
    evidence: pd.DataFrame
    left_out: tuple[str, ...] = ()


def load_runs(runs: Sequence[str | Path] | None = None, results: str | Path = "results") -> Frames:
    """Read the scores of runs into three frames.

    Args:
        runs: names under `results`, or folders; None: all runs in `results`.
        results: folder of the runs.

    Raises:
        BadInputError: there is no such run, or nothing was scored.
    """
    import pandas as pd

    root = Path(results)
    left_out: list[str] = []
    if runs is None:
        chosen, left_out = read_runs(root)
    else:
        chosen = [find_run(str(name), root) for name in runs]
    metrics: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    evidence: list[dict[str, Any]] = []
    for run in distinct(chosen):
        usable, unusable = scored(run)
        left_out += unusable
        for score in usable:
            record = score.record
            key = dict(zip(_KEY, (run.name, record.suite, record.data, record.variant), strict=True))
            about = {name: getattr(record, name) for name in ("method", "model", "n", "of", "unscored")}
            judge = (record.judge.model or record.judge.judge) if record.judge else None
            for name, metric in record.metrics.items():
                low, high = metric.ci or (None, None)
                figures = {"metric": name, "value": metric.value, "ci_low": low, "ci_high": high}
                metrics.append(key | about | figures | {"higher_is_better": metric.higher_is_better, "judge": judge})
            try:
                rows = read_rows(score.items, unscored=True) if score.items.exists() else {}
            except BadInputError as error:
                rows = {}
                left_out.append(f"{run.name}: {score.items.name}: {error.problem}, so {record.suite} has no items")
            for row in rows.values():
                plain = {name: getattr(row, name) for name in _ITEM}
                items.append(key | plain | dict(row.counts))
                for piece in row.evidence:
                    start, end = piece.span or (None, None)
                    words = {name: getattr(piece, name) for name in _PIECE}
                    evidence.append(key | {"item": row.item} | words | {"start": start, "end": end})
    if not metrics:
        raise BadInputError("nothing was scored yet", where=str(root), remedy=EVALUATE)
    return Frames(
        pd.DataFrame(metrics),
        pd.DataFrame(items) if items else pd.DataFrame(columns=[*_KEY, *_ITEM]),
        pd.DataFrame(evidence, columns=[*_KEY, "item", *_PIECE, "start", "end"]),
        tuple(left_out),
    )
