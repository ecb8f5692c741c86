"""The scores of a run in the hub's machine-readable form, the key `model-index` of a card's metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.records.score_files import MetricRecord, ScoresRecord

TASK = "image-text-to-text"
LEVEL = 0.95
"""Level of the intervals in score files."""


def model_index(name: str, scores: Sequence[ScoresRecord]) -> list[dict[str, Any]]:
    """One entry for a model with a result per suite and metric; rates are in percent. Without a defined metric it is empty.

    Args:
        name: the model's name.
        scores: score records of its run.
    """
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=record.suite,
            dataset_name=record.title or record.suite,
            dataset_split=record.data,
            metric_type=metric_id,
            metric_name=f"{metric.title} [{record.variant}]" if record.variant else metric.title,
            metric_value=shown(metric.value, metric),
            metric_args=_about(record, metric),
        )
        for record in scores
        for metric_id, metric in record.metrics.items()
        if metric.value is not None
    ]
    return list(eval_results_to_model_index(name, results)) if results else []


def _about(record: ScoresRecord, metric: MetricRecord) -> dict[str, Any]:
    """What a value means: its unit, its interval, and the number of items."""
    interval = [shown(bound, metric) for bound in metric.ci] if metric.ci else None
    about = {"unit": metric.unit, "items": record.n, "of": record.of}
    return about | ({"confidence_interval": interval, "confidence_level": LEVEL} if interval else {})


def shown(value: float, metric: MetricRecord) -> float:
    """A value in the metric's unit: a rate, which is stored as a fraction, in percent."""
    return round(100 * value, 4) if metric.unit == "%" else round(value, 6)
