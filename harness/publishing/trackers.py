"""A run's scores as a run of an experiment tracker: Weights & Biases, MLflow or trackio.

Where it goes is the tracker's own business, by its own environment variables (WANDB_MODE=offline, MLFLOW_TRACKING_URI, TRACKIO_DIR, ...).
Written against and run with wandb 0.31 (offline), mlflow-skinny 3.17 (SQLite) and trackio 0.43 (local).
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.core.errors import BadInputError, HarnessError, shown
from harness.core.outgoing import without_folders
from harness.core.packages import need_package
from harness.core.redaction import redact
from harness.core.version import VERSION
from harness.publishing.folder import scores_of
from harness.records.score_files import ScoresRecord
from harness.runs.folders import Run

Tracker = Literal["wandb", "mlflow", "trackio"]
KIND = "evaluation"
_LONGEST = 500
"""Characters of a parameter of MLflow."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker gets.

    Attributes:
        name: the run's name.
        settings: what determined the scores, without this machine's folders: the checkpoint, and for every suite its data, sampling, ...
        metrics: `SUITE/VARIANT/METRIC` -> value; rates are fractions. `METRIC_low` and `METRIC_high` are the 95 % interval, and
            `SUITE/VARIANT/items` counts the scored items.
    """

    name: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]


def track(run: Run, tracker: Tracker, project: str) -> str:
    """Write a run's scores to a tracker, as a new run of it.

    Returns:
        Where it is: an address, a folder or an id, as the tracker names it.

    Raises:
        BadInputError: the run has no scores, or two metrics would have one name.
        MissingPackageError: the tracker is not installed.
        HarnessError: the tracker refuses.
    """
    need_package(tracker, f"--tracker {tracker}")
    content = tracked(run)
    writers: dict[Tracker, Callable[[TrackedRun, str], str]] = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}
    try:
        with contextlib.redirect_stdout(
            sys.stderr
        ):  # trackers greet there, and standard output has the command's result
            return writers[tracker](content, project)
    except Exception as error:
        raise HarnessError(
            f"{tracker} did not take the run: {shown(redact(str(error)), 300)}",
            where=f"--tracker {tracker}",
            remedy="see its documentation for where it writes to and how to work offline; the scores are unchanged",
        ) from error


def tracked(run: Run) -> TrackedRun:
    """What a tracker gets of a run.

    Raises:
        BadInputError: as `track`.
    """
    scores = scores_of(run)
    manifest = run.manifest
    assert manifest is not None
    settings = {
        "run": run.name,
        "base": run.base_label,
        "base fingerprint": manifest.base.fingerprint,
        "method": scores[0].method,
        "training": manifest.config,
        "harness": VERSION,
        "suites": {_place(record): _suite(record) for record in scores},
    }
    return TrackedRun(run.name, without_folders(settings), _metrics(scores))


def _suite(record: ScoresRecord) -> dict[str, Any]:
    given = record.written()
    return {
        name: given.get(name)
        for name in (
            "data",
            "variant",
            "n",
            "of",
            "unscored",
            "checkpoint",
            "sampling",
            "serving",
            "judge",
            "settings",
            "sample",
        )
    }


def _metrics(scores: Sequence[ScoresRecord]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for record in scores:
        place = _place(record)
        values: dict[str, float] = {"items": record.n}
        for name, metric in record.metrics.items():
            if metric.value is not None:
                low, high = metric.ci or (None, None)
                interval = {f"{name}_low": low, f"{name}_high": high}
                values |= {name: metric.value, **{key: end for key, end in interval.items() if end is not None}}
        for name, value in values.items():
            key = f"{place}/{name}"
            if key in metrics:
                raise BadInputError(
                    f"two scores of the run would have the name '{key}'",
                    where=record.suite,
                    remedy="evaluate one of them under another run's name",
                )
            metrics[key] = float(value)
    return metrics


def _place(record: ScoresRecord) -> str:
    """`SUITE/VARIANT` in the characters that every tracker takes."""
    return "/".join(re.sub(r"[^A-Za-z0-9_.-]+", "_", part) for part in (record.suite, record.variant) if part)


def _wandb(content: TrackedRun, project: str) -> str:
    import wandb

    run = wandb.init(
        project=project, name=content.name, config=dict(content.settings), job_type=KIND, reinit="create_new"
    )
    run.log(dict(content.metrics))
    place = str(run.url or Path(run.dir).parent)
    run.finish()
    return place


def _mlflow(content: TrackedRun, project: str) -> str:
    import mlflow

    client = mlflow.MlflowClient()
    known = client.get_experiment_by_name(project)
    experiment = known.experiment_id if known else client.create_experiment(project)
    run = client.create_run(experiment, run_name=content.name, tags={"kind": KIND})
    for name, value in _flat(content.settings).items():
        client.log_param(run.info.run_id, name, value[:_LONGEST])
    for name, number in content.metrics.items():
        client.log_metric(run.info.run_id, name, number)
    client.set_terminated(run.info.run_id)
    return f"{mlflow.get_tracking_uri()}, run {run.info.run_id}"


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested settings as MLflow's parameters: `suites/pope/data` -> text."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{above}{re.sub(r'[^A-Za-z0-9_./ -]+', '_', str(key))}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}/")
        elif value is not None:
            flat[name] = str(value)
    return flat


def _trackio(content: TrackedRun, project: str) -> str:
    import trackio

    run = trackio.init(
        project=project,
        name=content.name,
        config=dict(content.settings),
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    run.log(dict(content.metrics))
    trackio.finish()
    return f"{trackio.TRACKIO_DIR}, project {project}, run {run.name}"
