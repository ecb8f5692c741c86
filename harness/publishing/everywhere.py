"""A run's results, in every place that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import BadInputError
from harness.publishing.folder import Publication, Relationship, publish
from harness.publishing.trackers import Tracker, track
from harness.runs.folders import Run


def publish_everywhere(
    run: Run,
    output: Path | None,
    *,
    organisation: str | None,
    relationship: Relationship | None,
    answers: bool,
    trackers: Sequence[Tracker],
    project: str,
) -> list[str]:
    """Write the folder for others, then the trackers' runs.

    Args:
        run: the run.
        output: the new folder, if there is to be one.
        organisation, relationship, answers: of the folder (`Publication`).
        trackers: names of experiment trackers.
        project: the trackers' project.

    Returns:
        The files, and "TRACKER: PLACE" for each tracker.

    Raises:
        BadInputError: no place is named, a folder names nobody, or the run has no scores.
    """
    if output is None and not trackers:
        raise BadInputError("nothing to write to is named", remedy="a folder: -o FOLDER; a tracker: --tracker mlflow")
    if output is not None and organisation is None:
        raise BadInputError("a folder for others names who ran the evaluation", remedy="--organisation NAME")
    written: list[str] = []
    if output is not None and organisation is not None:
        files = publish(Publication(run, output, organisation, relationship, answers))
        written += [str(output / file) for file in files]
    return written + [f"{tracker}: {track(run, tracker, project)}" for tracker in trackers]
