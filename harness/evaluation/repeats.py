"""Measuring non-determinism (from batch composition, low precision, sampling) by the spread over repeats."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.core.types import Response
from harness.records.score_files import RepeatsRecord, SpreadRecord, SuiteScores


def repeat_folder(suite_folder: Path, repeat: int) -> Path:
    """The folder of a repeat's answers; for the first repeat, the suite's own folder."""
    return suite_folder if repeat == 0 else suite_folder / "repeats" / str(repeat + 1)


def spread(records: Sequence[SuiteScores], answers: Sequence[Mapping[str, Response]]) -> RepeatsRecord:
    """Mean, standard deviation (of a sample), minimum and maximum of every metric, how many texts differ, and what could not be answered.

    Args:
        records: score records, the first repeat's first.
        answers: item id -> response, of every repeat.
    """
    shared = [name for name in answers[0] if all(name in own for own in answers)]
    differ = sum(len({own[name].text for own in answers}) > 1 for name in shared)
    metrics = {}
    for name in records[0].metrics:
        values = [record.metrics[name].value for record in records]
        known = [value for value in values if value is not None]
        if len(known) < len(values):  # undefined in one of the repeats
            continue
        metrics[name] = SpreadRecord(
            mean=statistics.fmean(known), sd=statistics.stdev(known), min=min(known), max=max(known)
        )
    later = {str(number): record.refused for number, record in enumerate(records[1:], 2) if record.refused}
    return RepeatsRecord(
        k=len(records),
        items=len(shared),
        differ=differ / len(shared) if shared else None,
        metrics=metrics,
        **({"refused": later} if later else {}),
    )
