"""`harness export`: copies a run's checkpoint to a separate folder, with merged weights, processor, model card and manifest."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

from aligners.base import Aligner
from harness.checkpoints.card import model_card
from harness.core import registry
from harness.core.errors import BadInputError
from harness.core.files import atomic_folder, remove_left_overs, write_json
from harness.core.locks import writing
from harness.core.outgoing import without_folders
from harness.core.removal import move, remove
from harness.models import (
    CheckpointInfo,
    base_location,
    check_base,
    export_full,
    inspect,
    is_hub_id,
    load_model,
    load_processor,
    with_adapters,
)
from harness.records.manifest_file import CardManifest, CheckpointRecord, ExportedFrom, ManifestRecord
from harness.records.score_files import read_scores
from harness.runs.folders import MANIFEST, Run
from harness.runs.state import read_object

logger = logging.getLogger(__name__)


def export_run(run: Run, output: Path, *, merge: bool = True, overwrite: bool = False) -> ManifestRecord:
    """Write the checkpoint to `output`; the folder appears only when it is complete.

    Args:
        run: an aligned run.
        output: target folder.
        merge: add an adapter's weights to its base's; else the adapter is copied as it is.
        overwrite: replace what is in `output`.

    Returns:
        The exported folder's manifest.

    Raises:
        BadInputError: the run contains no aligned checkpoint, its base is not the one it was trained on, or the target exists.
    """
    if run.manifest is None or not run.aligned:
        raise BadInputError(f"the run '{run.name}' contains no aligned checkpoint", where=str(run.path))
    output = Path(os.path.abspath(output))  # noqa: PTH100 (`.` has no name, and a link keeps its own)
    _check_target(output, overwrite=overwrite)
    info = inspect(run.checkpoint)
    lock = output.with_name(f".{output.name}.lock")
    with writing(lock, "this checkpoint", output, keep=False):
        remove_left_overs(output)  # left by a killed export; as large as the model
        return _write(run, info, output, merge=merge)


def _check_target(output: Path, *, overwrite: bool) -> None:
    """Whether an export may be written to a folder.

    Raises:
        BadInputError: the folder exists and `overwrite` was not given, or it is not an exported checkpoint.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    manifest = read_object(output / MANIFEST)
    if manifest is None or "exported_from" not in manifest:
        raise BadInputError(
            "the folder is not an exported checkpoint, so it is not replaced, not even with --overwrite",
            where=str(output),
            remedy="choose another --output",
        )
    if not overwrite:
        raise BadInputError(
            "the output folder already exists",
            where=str(output),
            remedy="choose another --output, or replace it with --overwrite",
        )


def _write(run: Run, info: CheckpointInfo, output: Path, *, merge: bool) -> ManifestRecord:
    """Write the folder; it appears only when it is complete, and then replaces an older export."""
    assert run.manifest is not None
    with atomic_folder(output) as temporary:
        if info.kind == "adapter" and merge:
            _merge(run, str(info.base), temporary)
        else:
            shutil.copytree(run.checkpoint, temporary, dirs_exist_ok=True)
        kind = inspect(temporary)
        manifest = run.manifest.model_copy(
            update={
                "checkpoint": CheckpointRecord(kind=kind.kind, fingerprint=kind.fingerprint),
                "exported_from": ExportedFrom(run=run.name, kind=info.kind, fingerprint=info.fingerprint),
            }
        )
        (temporary / "README.md").write_text(card_of(replace(run, manifest=manifest)), encoding="utf-8")
        # An adapter of a local base is of use on this machine only, and its base is found by its folder.
        portable = kind.base is None or is_hub_id(kind.base)
        write_json(temporary / MANIFEST, without_folders(manifest.written()) if portable else manifest.written())
    return manifest


def card_of(run: Run) -> str:
    """The model card of a run with its manifest, with all usable scores of the run; the reasons for leaving out others are logged.

    Raises:
        BadInputError: the manifest lacks what a card needs.
    """
    manifest = run.manifest_as(CardManifest)
    method: type[Aligner] = registry.load("aligners", manifest.config.method)
    scores = []
    for path in sorted(run.path.glob("evals/*/scores*.json")):
        try:
            scores.append(read_scores(path))
        except BadInputError as error:
            logger.warning(f"not in the model card: {path.name}: {error.problem}")
    about = {"summary": method.summary, "source": method.source, "ours": method.ours}
    return model_card(manifest, about, scores)


def _merge(run: Run, base: str, folder: Path) -> None:
    """The base's weights, in their stored type, plus the adapter's."""
    assert run.manifest is not None
    base = base_location(run.checkpoint, base, run.base_label)
    check_base(run.checkpoint, base, run.manifest.base.fingerprint)
    logger.info(f"merging the adapter into {run.base_label}")
    model = with_adapters(load_model(base, device="cpu"), {"merged": run.checkpoint})
    export_full(model.merge_and_unload(safe_merge=True), load_processor(run.checkpoint), folder / "merged")
    for path in (folder / "merged").iterdir():
        move(path, folder / path.name, within=folder)
    remove(folder / "merged", within=folder)
