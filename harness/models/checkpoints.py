"""Checking a checkpoint folder before it is used."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.core.errors import BadInputError
from harness.core.files import sha256_bytes, sha256_file, sha256_json
from harness.models import pretrained
from harness.models.known import file_hash, known
from harness.models.ranks import rank_in
from harness.models.weights import fit, read_object, safetensors_shapes

logger = logging.getLogger(__name__)

PRESET = "preset.json"
"""The description of a preset in a model's folder."""

_NOT_COMPUTED = {"_name_or_path", "base_model_name_or_path", "revision", "transformers_version", "peft_version"}


@dataclass(frozen=True)
class CheckpointInfo:
    """Contents of a checkpoint folder. `base` is the adapter's base model as recorded in it; None for full weights."""

    kind: Literal["full", "adapter"]
    architecture: str
    base: str | None
    fingerprint: str


def inspect(folder: Path) -> CheckpointInfo:
    """Check that a folder is a checkpoint and that its weights match its configuration, without loading them.

    Raises:
        BadInputError: it is not a checkpoint, is incomplete, or weights and configuration do not match; the message names the tensor.
    """
    folder = Path(folder)
    if (folder / "adapter_config.json").exists():
        return _inspect_adapter(folder)
    return CheckpointInfo("full", fit(folder).architecture, None, fingerprint(folder))


def fingerprint(location: str | Path) -> str:
    """SHA-256 over the weight files (names and contents) and the description of a preset (`harness.models.presets`), which reads the same
    weights with another processor. For a hub id, over its name.

    Raises:
        BadInputError: it is the path of a folder that does not exist.
    """
    folder = Path(location)
    if not folder.is_dir():
        if is_gone(location):
            raise BadInputError(
                "the model's folder does not exist (any more)",
                where=str(location),
                remedy="put it back, or link to its new place",
            )
        return _hub_fingerprint(location)
    files = sorted(path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern) if path.is_file())
    files += [path for path in (folder / PRESET,) if path.is_file()]
    with ThreadPoolExecutor(min(8, len(files) or 1)) as pool:  # hashing releases the interpreter's lock
        return sha256_json(dict(zip((path.name for path in files), pool.map(file_hash, files), strict=True)))


def computation_files(base: str | Path, adapter: Path | None) -> dict[str, str]:
    """SHA-256 of the settings that decide how weights are computed with, by file: sizes and rules of the layers, an adapter's scale, where
    an answer ends. What a file says of places and versions does not count, and the template has a hash of its own.

    Args:
        base: folder or hub id.
        adapter: folder of the adapter on it.

    Returns:
        For a base on the hub only the adapter's file; the base's are those of a commit (`harness.remote.hub.cached_commit`).
    """
    folder = Path(base)
    files: dict[str, Path] = {}
    if folder.is_dir():
        files = {name: folder / name for name in ("config.json", "generation_config.json")}
    if adapter is not None:
        files["adapter_config.json"] = adapter / "adapter_config.json"
    return {
        name: sha256_json({key: value for key, value in read_object(path, name).items() if key not in _NOT_COMPUTED})
        for name, path in files.items()
        if path.is_file()
    }


def is_gone(location: str | Path) -> bool:
    """Whether this is the path of a folder that does not exist, and not a hub id."""
    path = Path(location)
    return not path.is_dir() and (path.is_absolute() or str(location).startswith((".", "~")) or len(path.parts) > 2)


def check_base(adapter: Path, base: str, recorded: str | None = None) -> None:
    """Refuse an adapter if its base does not exist, has other weights than in training, or has other layers than the adapter.

    Args:
        adapter: its folder; the manifest of `harness align` in it has the fingerprint of the base's weights.
        base: folder or hub id of the base to use.
        recorded: fingerprint of the base in training, if known from elsewhere.

    Raises:
        BadInputError: one of these cases; the message says what is missing.
    """
    adapter = Path(adapter)
    _refuse_gone(adapter, base)
    if recorded is None:
        recorded = _recorded_base(adapter)[0]
    if (
        recorded is not None
        and recorded != (present := fingerprint(base))
        and not may_be_base(base, recorded, _recorded_base(adapter)[1])
    ):
        raise BadInputError(
            f"the adapter was trained on other base weights: their fingerprint was {recorded[:12]}…, that of these is {present[:12]}…",
            where=f"{adapter} on {base}",
            remedy="restore the old weights, or align again",
        )
    check_covers(adapter, base, download=False)


def _refuse_gone(adapter: Path, base: str | Path) -> None:
    if is_gone(base):
        raise BadInputError(
            f"the adapter's base model is not at {base} (any more)",
            where=f"base_model_name_or_path in {adapter / 'adapter_config.json'}",
            remedy="write its new folder, or its name on the hub, there; or put the folder back",
        )


def may_be_base(base: str | Path, recorded: str, location: str | None) -> bool:
    """Whether an adapter may have been trained on this base.

    Args:
        base: folder or hub id.
        recorded: fingerprint of the base in training.
        location: its folder or hub id in training, if known. The fingerprint of a hub id is made of its name, so a folder's weights
            cannot be compared with it: a folder, such as a download of it, is accepted with a warning.
    """
    if fingerprint(base) == recorded:
        return True
    if location is None or recorded != _hub_fingerprint(location) or not Path(base).is_dir():
        return False
    _warn_unknown_base(str(base), location)
    return True


@functools.cache
def _warn_unknown_base(base: str, name: str) -> None:
    """Once per process, because several checks of a command compare the base."""
    logger.warning(
        f"the adapter was trained on {name} from the hub, and its base is now {base}: only the names and shapes of their weights can be "
        "compared; make sure that the weights are the same"
    )


def _hub_fingerprint(name: str | Path) -> str:
    return sha256_bytes(f"hub:{name}".encode())


def _recorded_base(adapter: Path) -> tuple[str | None, str | None]:
    """The fingerprint and the location of the base in the adapter's manifest, each None if it does not have it."""
    path = adapter / "manifest.json"
    if not path.exists():
        return None, None
    base = read_object(path, "manifest").get("base")
    if not isinstance(base, dict) or not isinstance(base.get("fingerprint"), str | None):
        raise BadInputError("the adapter's manifest does not name its base", where=str(path), remedy="copy it again")
    location = base.get("location")
    return base.get("fingerprint"), location if isinstance(location, str) else None


def check_covers(adapter: Path, base: str | Path, *, download: bool = True) -> None:
    """Check that every layer of this base that the adapter's configuration names has weights in the adapter, and that all weights have a
    layer.

    Args:
        adapter: its folder.
        base: folder or hub id.
        download: download the base's configuration if it is not cached; if False, nothing is checked then.

    Raises:
        BadInputError: the adapter was saved or copied incompletely, or belongs to another model; the message names the first tensor.
    """
    _refuse_gone(adapter, base)
    folder = Path(base)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(str(base), "config.json")
        if not isinstance(cached, str):
            if download:
                pretrained.report_on_adapter(base, adapter, safetensors_shapes(adapter / "adapter_model.safetensors"))
            return
        folder = Path(cached).parent
    shapes = safetensors_shapes(adapter / "adapter_model.safetensors")
    compared = {
        "config": sha256_file(folder / "config.json"),
        "adapter": sha256_file(adapter / "adapter_config.json"),
        "shapes": shapes,
    }

    def find_out() -> str:
        pretrained.report_on_adapter(folder, adapter, shapes)
        return "whole"

    known("adapter", compared, find_out)


def context_length(location: str | Path) -> int | None:
    """The maximum number of tokens of a model's context by its configuration; None if it does not say."""
    length = getattr(pretrained.configuration(location).get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def _inspect_adapter(folder: Path) -> CheckpointInfo:
    path = folder / "adapter_config.json"
    config = read_object(path, "adapter configuration")
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise BadInputError(
            "the adapter has no adapter_model.safetensors",
            where=str(folder),
            remedy="copy it again; weights in other formats are not accepted",
        )
    shapes = safetensors_shapes(weights)
    if not any(".lora_" in name for name in shapes):
        raise BadInputError(
            "the adapter contains no LoRA weights", where=str(weights), remedy="only LoRA adapters are supported"
        )
    _check_ranks(config, shapes, folder)
    base = config.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise BadInputError(
            "the adapter does not name its base model",
            where=f"base_model_name_or_path in {path}",
            remedy="write the folder of its base model there, or its name on the hub",
        )
    return CheckpointInfo("adapter", str(config.get("peft_type", "LORA")), base, fingerprint(folder))


def _check_ranks(config: dict[str, Any], shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Check that the weights have the configured ranks: `r`, or for some layers those of `rank_pattern`."""
    pattern = config.get("rank_pattern") or {}
    for name, shape in shapes.items():
        if ".lora_A." not in name:
            continue
        try:
            said = rank_in(pattern, name.rpartition(".lora_A.")[0], config.get("r"))
        except (AttributeError, re.error):
            raise BadInputError(
                "rank_pattern does not map name patterns to ranks",
                where=str(folder / "adapter_config.json"),
                remedy="copy the adapter again",
            ) from None
        if shape[:1] != (said,):
            raise BadInputError(
                f"the adapter's weights have rank {shape[0] if shape else None} in {name}, its configuration says {str(said)[:40]}",
                where=str(folder),
                remedy="weights and adapter_config.json come from different adapters: copy it again",
            )
