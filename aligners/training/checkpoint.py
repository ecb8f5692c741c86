"""Files that training writes: the checkpoint, and between stages the weights that each stage trained."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aligners.training.processes import whole
from aligners.training.resume import begin_again, stored, tensors
from aligners.training.session import Session
from harness.core.errors import BadInputError
from harness.core.files import atomic_path, remove_left_overs
from harness.core.removal import REMOVED, remove
from harness.models import export_adapter, export_full
from harness.records.training_files import StageRow

FINISHED = "finished.safetensors"
"""File in a stage's folder with the trained weights, and the stage's summary in the header. Written last, after the stage's own
checkpoint."""

_BLOCK = 1 << 20


def export(session: Session, folder: Path) -> None:
    """Write the checkpoint, in the first process, with the other processes' shards of the weights."""
    adapters, first = session.train_settings.adapters, session.process.is_main_process
    state = None
    if session.sharded:
        state = whole(_trainable(session.policy.model) if adapters else stored(session.policy.plain), first)
    if not first:
        return
    remove_left_overs(folder)
    if adapters:
        export_adapter(session.policy.model, session.processor, folder, session.job.model, state)
    else:
        export_full(session.policy.plain, session.processor, folder, state)


def _trainable(model: Any) -> dict[str, Any]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def save_finished(model: Any, folder: Path, first: bool, summary: StageRow) -> None:
    """Save the weights that a stage trained, in float32; the file appears only when it is complete. Every process must call this, and
    the first one writes."""
    from safetensors.torch import save_file

    # DeepSpeed makes the weights bfloat16, but a new process has them in float32, which represents them exactly.
    values = {name: value.float() for name, value in whole(_trainable(model), first).items()}
    if not first:
        return
    remove_left_overs(folder / FINISHED)
    with atomic_path(folder / FINISHED) as temporary:
        save_file(values, temporary, metadata={"summary": json.dumps(summary.written())})
    remove_intermediate(folder)


def remove_intermediate(folder: Path) -> None:
    """Remove the intermediate checkpoints of a finished stage, which no resumed run reads; a kill may have left them."""
    for checkpoint in (*folder.glob("checkpoint-*"), *folder.glob(f".checkpoint-*{REMOVED}")):
        remove(checkpoint, within=folder)


def finished_hash(folder: Path) -> str:
    """Hex SHA-256 of the weights that a finished stage trained: names, types, shapes and values, without the summary, which has times.

    The file is read once, in blocks; 28 GB take about half a minute.
    """
    digest = hashlib.sha256()
    with (folder / FINISHED).open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        digest.update(json.dumps(header, sort_keys=True).encode())
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def load_finished(model: Any, folder: Path) -> StageRow | None:
    """Load the weights that a finished stage trained, and return its summary; None if it was not finished.

    Raises:
        BadInputError: the file is damaged, or belongs to another model; then nothing is loaded.
    """
    path = folder / FINISHED
    if not path.exists():
        return None
    import torch
    from safetensors import safe_open

    trainable, remedy = _trainable(model), begin_again(path)
    with torch.no_grad():
        # Earlier versions kept DeepSpeed's weights in bfloat16.
        for name, value in tensors(path, trainable, remedy, widen=True):
            trainable[name].copy_(value)
    with safe_open(path, framework="pt") as opened:
        text = (opened.metadata() or {}).get("summary", "")
    try:
        return StageRow.model_validate_json(text)
    except ValidationError:
        raise BadInputError(
            "the weights of a finished stage have no summary of the stage", where=str(path), remedy=remedy
        ) from None
