"""Samples of image preferences: original and corrupted images of some training examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligners.rejected_images.records import ImagePreferenceNotes, PreparedSummary, SampleRow
from harness.core.errors import BadInputError
from harness.core.reading import numbered_rows
from harness.core.record import check
from harness.core.types import ImageRef
from harness.reports.gather import thumbnail
from harness.runs.folders import MANIFEST, Run

_WHAT = "samples of rejected images"


def rejected_images(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """Values for the template: each run's samples of rejected images; and sentences about what was left out.

    A method stores the place of its samples in the manifest: a file of rows (`SampleRow`) in the run's folder,
    whose images are files there too.
    """
    shown, left_out = [], []
    for run in runs:
        try:
            notes = _notes(run)
            if notes is None or notes.samples is None:
                continue
            path = _inside(run, notes.samples)
            rows = numbered_rows(path, _WHAT)
            pairs = [_pair(run, check(SampleRow, row, _WHAT, f"{path}:{number}")) for number, row in rows]
        except BadInputError as error:
            left_out.append(f"{run.name}: rejected images: {error.problem} ({error.where})")
            continue
        title = f"{run.name}: {len(pairs)} of {notes.examples:,} training examples, selected by their ids."
        shown.append({"title": title, "pairs": pairs})
    return shown, left_out


def _notes(run: Run) -> ImagePreferenceNotes | None:
    """What a run notes about its rejected images; None if it has none.

    Raises:
        BadInputError: the notes cannot be used.
    """
    summary = (run.manifest.summary if run.manifest else None) or {}
    prepared = summary.get("prepared") or {}
    return check(PreparedSummary, prepared, "summary", run.path / MANIFEST).image_preferences


def _inside(run: Run, name: str) -> Path:
    """A file of the run's folder.

    Raises:
        BadInputError: the path leaves the folder.
    """
    path = (run.path / name).resolve()
    if not path.is_relative_to(run.path.resolve()):
        raise BadInputError(f"'{name}' is outside the run's folder", where=str(run.path))
    return path


def _pair(run: Run, row: SampleRow) -> dict[str, Any]:
    """One example. Values of the data set and the detector are plain text."""
    kinds = {"given": "from the data", "random-regions": "random regions", "unchanged": "nothing changes"}
    words = ", ".join(row.keywords or ()) or kinds.get(row.made, "none: the whole image")
    how = [row.corruption] if row.corruption else []
    if row.step is not None:
        how.append(f"t = {row.step}, schedule {row.schedule or 'ddpm'}")
    elif row.strength is not None:
        how.append(f"strength {row.strength:.2g}")
    pictures = {"original": row.original, "rejected": row.rejected}
    return {
        "id": row.id,
        "prompt": row.prompt,
        "chosen": row.chosen,
        "corrupted": words + (f" ({', '.join(how)})" if how else ""),
        "pictures": [
            {"kind": kind, "source": thumbnail(ImageRef(_inside(run, name)).open())} for kind, name in pictures.items()
        ],
    }
