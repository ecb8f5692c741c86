"""The base of an adapter that was trained on a preset, `official:MODEL`, after the cache was cleared or on another machine."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import BadInputError, HarnessError
from harness.models.aliases import recorded
from harness.models.presets import PREFIX, is_lost
from harness.models.weights import read_object


def base_location(adapter: Path, location: str, label: str | None = None) -> str:
    """The location of an adapter's base model. A preset's folder, which is in this machine's cache, is made again if it is lost.

    Args:
        adapter: the adapter's folder, whose manifest has the base's label.
        location: folder or hub id of the base, as the adapter's configuration names it.
        label: the base as the user named it, if it is known from elsewhere.

    Raises:
        BadInputError: the preset was made from a model's folder, which its label does not name.
        HarnessError: the preset cannot be made again here.
    """
    label = label or _recorded_label(adapter)
    if label is None or not label.startswith(PREFIX) or not is_lost(location):
        return location
    model = recorded(label, location)
    lost = f"the adapter's base {label} is not in the cache any more"
    if not model.official:
        raise BadInputError(
            f"{lost}, and its name does not say where its weights are",
            where=location,
            remedy=f"make it again with the folder of the weights: harness verify {PREFIX}FOLDER; if it is then at another place than "
            f"before, write that place as base_model_name_or_path in {adapter / 'adapter_config.json'}",
        )
    try:
        return model.locate()
    except HarnessError as error:
        raise type(error)(
            f"{lost}, and cannot be made again: {error.problem}",
            where=location,
            remedy=f"make it again with a connection to the hub: harness verify {label}; or for the missing weights: {error.remedy}",
        ) from error


def _recorded_label(adapter: Path) -> str | None:
    """The label of the base in the adapter's manifest; None if it has none."""
    path = adapter / "manifest.json"
    base = read_object(path, "manifest").get("base") if path.exists() else None
    label = base.get("label") if isinstance(base, dict) else None
    return label if isinstance(label, str) else None
