"""Results for others, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.packages import OWN_DISTRIBUTION

if TYPE_CHECKING:
    from harness.publishing.folder import Relationship
    from harness.publishing.trackers import Tracker
    from harness.runs.folders import Run


def publish(
    run: str | Run,
    output: str | Path | None = None,
    *,
    organisation: str | None = None,
    relationship: Relationship | None = None,
    answers: bool = False,
    trackers: Sequence[Tracker] = (),
    project: str = OWN_DISTRIBUTION,
    results: str | Path = "results",
) -> list[str]:
    """Write a run's results for others, as `harness publish` does: a folder, runs of experiment trackers, or both.

    Args:
        run: a run with scores; or its name or folder.
        output: the new folder: a card with machine-readable scores, Every Eval Ever records, the scores.
        organisation: who ran the evaluation; a folder needs it.
        relationship: of the evaluator to the model; None is "first_party" for an aligned run, else "third_party".
        answers: include the answers, with which others can test differences.
        trackers: "wandb", "mlflow" or "trackio"; each gets the scores as a new run.
        project: the trackers' project (MLflow: experiment).
        results: folder of the runs.

    Returns:
        The files, and "TRACKER: PLACE" for each tracker.

    Raises:
        BadInputError: no place is named, the folder exists, or the run has no scores.
        MissingPackageError: a tracker is not installed.
    """
    from harness.publishing import publish_everywhere
    from harness.runs.folders import find_run

    return publish_everywhere(
        find_run(run, Path(results)) if isinstance(run, str) else run,
        Path(output) if output is not None else None,
        organisation=organisation,
        relationship=relationship,
        answers=answers,
        trackers=list(trackers),
        project=project,
    )
