"""Writing checkpoints that both transformers and vLLM load: the hub's weight names, processor and chat template included."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from harness.core.files import atomic_folder, read_json
from harness.core.removal import remove
from harness.models.pretrained import quiet_transformers

_TOWER = re.compile(
    r"^((?:model\.)?vision_tower\.)(?!vision_model\.)(?=embeddings\.|encoder\.|pre_layrnorm\.|post_layernorm\.|head\.)"
)
"""transformers 5.17-5.19 save the weights of a CLIP or SigLIP tower without a level of their names that the hub's files and vLLM have."""
_WITH_LEVEL = {"clip_vision_model", "siglip_vision_model"}
"""Towers whose names have that level; those of InternVL and Gemma 4 have none."""


def hub_name(name: str) -> str:
    """A tensor's name in the hub's checkpoints."""
    return _TOWER.sub(r"\1vision_model.", name)


def export_full(model: Any, processor: Any, folder: Path, state: dict[str, Any] | None = None) -> None:
    """Save full weights with the hub's names, and the processor. The folder appears only when it is complete.

    Args:
        model: the transformers model.
        processor: saved next to it.
        folder: target.
        state: its whole tensors by name, if the model itself has only a shard of them.
    """
    quiet_transformers()
    with atomic_folder(Path(folder)) as temporary:
        _save(model, temporary, state)
        _rename_tensors(temporary)
        processor.save_pretrained(temporary)


def _save(model: Any, folder: Path, state: dict[str, Any] | None) -> None:
    """Transformers' `save_pretrained`, also for a generation configuration that it reads but refuses to write, such as a temperature
    without sampling: that one is written as it is."""
    generation: Any = getattr(model, "generation_config", None)
    try:
        if generation is not None:
            generation.validate(strict=True)
    except ValueError:
        model.generation_config = type(generation)()
        try:
            model.save_pretrained(folder, state_dict=state)
        finally:
            model.generation_config = generation
        generation.to_json_file(folder / "generation_config.json", use_diff=True)
    else:
        model.save_pretrained(folder, state_dict=state)


def export_adapter(
    peft_model: Any, processor: Any, folder: Path, base: str, state: dict[str, Any] | None = None
) -> None:
    """Save a PEFT adapter, and the processor, so that the folder can be served together with its base.

    Args:
        peft_model: the wrapped model; only the adapter's weights are saved.
        processor: saved next to it, so that the folder records how it was trained.
        folder: target; appears only when it is complete.
        base: folder or hub id of the base model, recorded in the adapter.
        state: the adapter's whole tensors by name, if the model itself has only a shard of them.
    """
    with atomic_folder(Path(folder)) as temporary:
        peft_model.save_pretrained(temporary, state_dict=state)
        path = temporary / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base
        path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        remove(temporary / "README.md", within=temporary)  # PEFT's empty model card
        processor.save_pretrained(temporary)


def _rename_tensors(folder: Path) -> None:
    """Rename the tensors of every weight file, and the index, to the hub's names."""
    tower = read_json(folder / "config.json", "configuration").get("vision_config") or {}
    if tower.get("model_type") not in _WITH_LEVEL:
        return
    from safetensors import safe_open
    from safetensors.torch import save_file

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as stream:
            tensors = {hub_name(name): stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
        save_file(tensors, path, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] = {hub_name(name): file for name, file in content["weight_map"].items()}
        index.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
