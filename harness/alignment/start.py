"""Starting an alignment from an earlier run's checkpoint: the next round of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.core.errors import BadInputError
from harness.models import ModelRef, inspect
from harness.records.manifest_file import StartRecord
from harness.runs.folders import MANIFEST, open_run


def started_from(folder: Path, model: ModelRef) -> tuple[ModelRef, StartRecord]:
    """The model with an earlier run's weights in place of its own; label, recipe and data stay the model's.

    Args:
        folder: an exported checkpoint with full weights (`harness export`).
        model: the base model that the earlier run, or the first one before it, was aligned from.

    Raises:
        BadInputError: the folder is no such export, or it was aligned from another model.
    """
    manifest = open_run(folder).manifest if (folder / MANIFEST).is_file() else None
    if manifest is None or manifest.exported_from is None or inspect(folder).kind != "full":
        raise BadInputError(
            "--start needs an exported checkpoint with full weights",
            where=str(folder),
            remedy=f"harness export RUN -o {folder}",
        )
    if manifest.base.label != model.label:
        raise BadInputError(
            f"the run '{manifest.exported_from.run}' was aligned from {manifest.base.label}, not from {model.label}",
            where=str(folder),
            remedy=f"--model {manifest.base.label}, or another --start",
        )
    exported = manifest.exported_from
    origin = None if model.official else model.location
    start = StartRecord(run=exported.run, fingerprint=exported.fingerprint, origin=origin)
    # An export has the processing of the model that it was made from, so that no preset is needed on top.
    return replace(model, location=str(folder.resolve()), official=False), start
