"""Aliases of models, and resolving model names."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core import registry
from harness.core.errors import BadInputError, UnknownNameError
from harness.core.packages import MissingPackageError
from harness.core.plugins import PluginError
from harness.core.worlds import World, find_world

_HUB = {
    "llava-1.5-7b": ("llava-hf/llava-1.5-7b-hf", "llava"),
    "llava-1.5-13b": ("llava-hf/llava-1.5-13b-hf", "llava"),
    "llava-v1.6-7b": ("llava-hf/llava-v1.6-vicuna-7b-hf", "llava_next"),
    "llava-v1.6-13b": ("llava-hf/llava-v1.6-vicuna-13b-hf", "llava_next"),
    "llava-v1.6-mistral-7b": ("llava-hf/llava-v1.6-mistral-7b-hf", "llava_next"),
    "qwen2-vl-2b": ("Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl"),
    "qwen2-vl-7b": ("Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl"),
    "qwen2.5-vl-3b": ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl"),
    "qwen2.5-vl-7b": ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),
    "qwen3-vl-4b": ("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl"),
    "qwen3-vl-8b": ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl"),
    "smolvlm-256m": ("HuggingFaceTB/SmolVLM-256M-Instruct", "idefics3"),
    "smolvlm-500m": ("HuggingFaceTB/SmolVLM-500M-Instruct", "idefics3"),
    "smolvlm-2b": ("HuggingFaceTB/SmolVLM-Instruct", "idefics3"),
    "smolvlm2-2.2b": ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", "smolvlm"),
}
"""Alias -> the hub's name, and the `model_type` of the configuration there."""

_SPELLINGS = {
    "llava-v1.5-7b": "llava-1.5-7b",
    "llava-v1.5-13b": "llava-1.5-13b",
    "llava-1.6-7b": "llava-v1.6-7b",
    "llava-1.6-13b": "llava-v1.6-13b",
    "llava-1.6-mistral-7b": "llava-v1.6-mistral-7b",
}
"""The authors' names and the hub's differ in the "v"; both are taken, and the alias is what a run is labelled with."""

_OFFICIAL = "official:"
_WORLD = "embedded world; needs no download"


@dataclass(frozen=True)
class ModelRef:
    """A model, as the user named it.

    Attributes:
        label: the user's name for it.
        location: folder or hub id. For a world's model it is None until `locate` trains it.
        default_preferences: preference data that `align` takes when none is named.
        default_data: benchmark data that `eval` takes when none is named.
        world: the embedded world that the model belongs to.
        source: origin of the name, for `harness list`.
        family: the `model_type` of its configuration; None for a folder or a hub id, whose configuration says it.
        official: with the processing of LLaVA-1.5's authors (`harness.models.presets`); `location` is that of the weights.
    """

    label: str
    location: str | None
    default_preferences: str
    default_data: str
    world: World | None
    source: str
    family: str | None = None
    official: bool = False

    def locate(self) -> str:
        """Folder or hub id of the checkpoint; a world's model is trained, and a preset's folder is made, on first use."""
        if self.official:
            from harness.models.presets import official

            return str(official(str(self.location)))
        if self.location is not None:
            return self.location
        assert self.world is not None
        return str(self.world.model())


def aliases() -> dict[str, ModelRef]:
    """Every name that can be used without a slash, sorted."""
    models = {name: _on_hub(name) for name in _HUB}
    models |= {f"{_OFFICIAL}{name}": _official(ref) for name, ref in models.items() if ref.family == "llava"}
    for name in registry.entries("worlds"):
        with contextlib.suppress(
            PluginError, MissingPackageError
        ):  # a broken world has no model; `harness list worlds` shows the reason
            models[name] = ModelRef(name, None, name, name, find_world(name), _WORLD)
    return dict(sorted(models.items()))


def _on_hub(name: str) -> ModelRef:
    hub, family = _HUB[name]
    return ModelRef(name, hub, "rlaif-v", "official", None, f"hub: {hub}", family)


def _of_hub_id(name: str) -> ModelRef:
    return ModelRef(name, name, "rlaif-v", "official", None, "hub")


def _official(model: ModelRef) -> ModelRef:
    """A model with the processing of LLaVA-1.5's authors."""
    source = f"{model.source}, pads images to squares, Vicuna's system sentence"
    return replace(model, label=f"{_OFFICIAL}{model.label}", official=True, source=source)


def is_hub_id(location: str) -> bool:
    """Whether a location of weights is a name on the hub, which others can load, and not a local folder (existing or not)."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", location) is not None and not Path(location).is_dir()


def resolve(name: str) -> ModelRef:
    """Resolve a model name: an alias, an embedded world (`pocket`, `pocket:1`), a folder, or a hub id; `official:` may be in front.

    Raises:
        UnknownNameError: none of these; the nearest aliases are suggested.
        BadInputError: it looks like a path that does not exist, or is empty.
    """
    if not name.strip():  # Path("") would be the working directory
        raise BadInputError("the model's name is empty", remedy="see `harness list models`")
    name = _SPELLINGS.get(name, name)
    if name in _HUB:
        return _on_hub(name)
    if name.startswith(_OFFICIAL):
        model = resolve(name.removeprefix(_OFFICIAL))
        if model.world is not None:
            raise BadInputError(
                f"'{_OFFICIAL}' is the way of LLaVA-1.5, and {model.label} is an embedded world's model"
            )
        return _official(model)
    if world := find_world(name):
        return ModelRef(name, None, name, name, world, _WORLD)
    path = Path(name)
    if path.is_dir():
        return ModelRef(path.resolve().name, str(path.resolve()), "rlaif-v", "official", None, "folder")
    if path.exists():
        raise BadInputError(f"'{name}' is a file, not a checkpoint folder", where=name, remedy="give its folder")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BadInputError(f"there is no checkpoint folder '{name}'", where=name, remedy="see `harness list models`")
    if name.count("/") == 1:
        return _of_hub_id(name)
    raise UnknownNameError("model", name, list(_HUB) + list(registry.entries("worlds")))


def recorded(label: str, location: str) -> ModelRef:
    """The model of a run's manifest, independent of the working directory, in which `resolve` would search a folder's name.

    A preset of a model on the hub, whose folder in the cache is lost, is made again by `locate`.

    Args:
        label: the user's name for it; for a folder, its last part.
        location: folder or hub id of its weights at that time.
    """
    if find_world(label):  # made again if the cache does not have it
        return resolve(label)
    weights = label.removeprefix(_OFFICIAL)
    if weights != label and (weights in _HUB or weights.count("/") == 1):
        from harness.models.presets import is_lost

        if is_lost(location):
            return _official(_on_hub(weights) if weights in _HUB else _of_hub_id(weights))
    return ModelRef(label, location, "rlaif-v", "official", None, "manifest")
