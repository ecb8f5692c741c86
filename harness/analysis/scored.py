"""Reading scores: score files, the item files next to them, and their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import BadInputError
from harness.core.plugins import blame
from harness.core.reading import open_binary
from harness.core.stats import Aggregate
from harness.core.types import SampleScore
from harness.core.version import VERSION
from harness.records.item_files import ItemRow, item_row
from harness.records.score_files import ScoresRecord, read_scores
from harness.runs.folders import Run

EVALUATE = "harness eval --suite SUITE,...; `harness list benchmarks` names them"
"""The remedy where nothing was scored."""


def items_beside(scores: Path) -> Path:
    """The item file that belongs to a score file."""
    return scores.with_name(scores.name.replace("scores", "items", 1) + "l")


def read_rows(path: Path, *, unscored: bool = False) -> dict[str, ItemRow]:
    """The rows of an item file by item; rows without a verdict only if `unscored` is set.

    Raises:
        BadInputError: the file cannot be read, or a line is not an item's row.
    """
    with open_binary(path, "items") as stream:
        rows = (item_row(line, number, path) for number, line in enumerate(stream, 1) if line.strip())
        return {row.item: row for row in rows if unscored or row.unscored is None}


def label_of(suite: str, data: str, variant: str) -> str:
    """Text that names what was scored."""
    return f"{suite} on {data}{f' [{variant}]' if variant else ''}"


@dataclass(frozen=True)
class Scored:
    """One run's scores of one suite: the record and the path of its file."""

    run: str
    path: Path
    record: ScoresRecord

    @property
    def key(self) -> tuple[str, str, str]:
        """(suite, data, variant): what scores must share to be compared."""
        return self.record.suite, self.record.data, self.record.variant

    @property
    def label(self) -> str:
        """The key in words."""
        return label_of(*self.key)

    @property
    def items(self) -> Path:
        """Its item file."""
        return items_beside(self.path)


def scored(run: Run) -> tuple[list[Scored], list[str]]:
    """Every usable score file of a run, and a sentence for each unusable one with the reason."""
    scores, reasons = [], []
    paths = sorted(run.path.glob("evals/*/scores*.json"))
    for path in paths:
        try:
            scores.append(Scored(run.name, path, read_scores(path)))
        except BadInputError as error:
            reasons.append(f"{run.name}: {path.relative_to(run.path)}: {error.problem}")
    if not paths:
        asked = sorted(path.parent.name for path in run.path.glob("evals/*/responses.jsonl"))
        what = f"answered but not scored: {', '.join(asked)}" if asked else "nothing was scored"
        reasons.append(f"{run.name}: {what}")
    version = run.manifest.harness if run.manifest else None
    if version not in (None, VERSION):
        reasons.append(f"{run.name}: made by version {version}, this is {VERSION}; shown anyway")
    return scores, reasons


def sample_scores(rows: Mapping[str, ItemRow], items: Sequence[str]) -> list[SampleScore]:
    """The counts of these items, in this order."""
    return [SampleScore(item, rows[item].group, rows[item].counts) for item in items]


def unlike(aggregate: Aggregate, totals: Mapping[str, Any]) -> str:
    """Why a suite cannot compute metrics from counts, which may be of another suite or version; "" if it can."""
    try:
        aggregate({name: np.asarray(total) for name, total in totals.items()})
    except Exception as error:  # noqa: BLE001 (a benchmark's own code, on counts that it may not know)
        if not isinstance(error, KeyError) and (mistake := blame(error)):
            return str(mistake)
        lacks = f"they have no '{error.args[0]}'" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        return f"the counts are not those of this suite: {lacks}"
    return ""
