"""Looking at a checkpoint folder before anything is started on it."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import BadInputError
from harness.files import read_json, sha256_bytes, sha256_file, sha256_json
from harness.models import torchvision_shim
from harness.models.known import file_hash, known
from harness.models.ranks import rank_in


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint folder holds. `base` is the adapter's base model as recorded in it; None for full weights."""

    kind: Literal["full", "adapter"]
    architecture: str
    base: str | None
    fingerprint: str


def inspect(folder: Path) -> CheckpointInfo:
    """Check that a folder is a checkpoint and that its weights match its configuration, without loading them.

    Raises:
        BadInputError: it is not one, is incomplete, or weights and configuration disagree; the message names the tensor.
    """
    folder = Path(folder)
    if (folder / "adapter_config.json").exists():
        return _inspect_adapter(folder)
    if not (folder / "config.json").exists():
        raise BadInputError(
            "this is not a checkpoint: it has neither config.json nor adapter_config.json", where=str(folder)
        )
    shapes = _weight_shapes(folder)
    compared = {"config": sha256_file(folder / "config.json"), "shapes": shapes}
    architecture = known("architecture", compared, lambda: _compare_with_architecture(folder, shapes))
    return CheckpointInfo("full", architecture, None, fingerprint(folder))


def fingerprint(location: str | Path) -> str:
    """SHA-256 over the weight files (names and contents). For a hub id that is not a folder, over its name.

    Raises:
        BadInputError: it is a path, and no folder is there.
    """
    folder = Path(location)
    if not folder.is_dir():
        if folder.is_absolute() or str(location).startswith("."):
            raise BadInputError(
                "the model's folder is not there (any more)",
                where=str(location),
                remedy="put it back, or a link to where it is now",
            )
        return sha256_bytes(f"hub:{location}".encode())
    files = sorted(path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    return sha256_json({path.name: file_hash(path) for path in files})


def check_base(adapter: Path, base: str, recorded: str | None = None) -> None:
    """Refuse an adapter whose base has other weights than when it was trained.

    Args:
        adapter: its folder; the manifest that `harness align` left there says which weights those were.
        base: folder or hub id of the weights that it would be put on.
        recorded: their fingerprint, where it is known from elsewhere.

    Raises:
        BadInputError: the fingerprints differ.
    """
    manifest = Path(adapter) / "manifest.json"
    if recorded is None and manifest.exists():
        recorded = read_json(manifest, "manifest")["base"]["fingerprint"]
    if recorded is not None and (found := fingerprint(base)) != recorded:
        raise BadInputError(
            f"the adapter was trained on other base weights: they had the fingerprint {recorded[:12]}…, these have {found[:12]}…",
            where=f"{adapter} on {base}",
            remedy="put the old weights back, or align again",
        )


def context_length(location: str | Path) -> int | None:
    """The greatest number of tokens that a model takes, as its configuration says; None where it says nothing."""
    torchvision_shim.apply()
    from transformers import AutoConfig

    length = getattr(AutoConfig.from_pretrained(location).get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes from a safetensors header; checks that the file is as long as the header says.

    Raises:
        BadInputError: truncated or not a safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise BadInputError("the weight file is truncated or not in safetensors format", where=str(path))
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except ValueError:
            raise BadInputError("the weight file's header is broken", where=str(path)) from None
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != size:
        raise BadInputError(
            f"the weight file has {size} bytes, its header says {8 + length + end}",
            where=str(path),
            remedy="copy or export it again",
        )
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def _weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a (sharded) checkpoint."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(read_json(index, "weight index")["weight_map"].values()))
    elif (folder / "model.safetensors").exists():
        names = ["model.safetensors"]
    else:
        raise BadInputError(
            "the checkpoint has no weights in safetensors format",
            where=str(folder),
            remedy="convert them: load it with transformers and save it again",
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        if not (folder / name).exists():
            raise BadInputError(f"the weight file {name} that the index names is missing", where=str(folder))
        shapes |= safetensors_shapes(folder / name)
    return shapes


def _compare_with_architecture(folder: Path, shapes: dict[str, tuple[int, ...]]) -> str:
    """Build the architecture without memory and compare number and shapes of tensors, up to the names' prefixes."""
    torchvision_shim.apply()
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise BadInputError(
            f"config.json does not describe an image-and-text model: {str(error).splitlines()[0][:200]}",
            where=str(folder / "config.json"),
            remedy="name a model that sees: harness list models",
        ) from error
    # Prefixes differ between versions of transformers and the hub, so tensors are compared by the last parts of their
    # names and their shapes.
    expected = [(_tail(name), tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    stored = {(_tail(name), shape) for name, shape in shapes.items()}
    tied = {_tail(name) for name in model.all_tied_weights_keys}  # where the configuration, or a part of it, ties them
    wrong = [(name, shape) for name, shape in expected if (name, shape) not in stored and name not in tied]
    if wrong:
        name, shape = wrong[0]
        seen = sorted({other for tail, other in stored if tail == name})
        problem = f"{len(wrong)} tensors do not match config.json, first '...{name}': expected {list(shape)}, "
        raise BadInputError(
            problem + (f"found {[list(other) for other in seen][:3]}" if seen else "found none"),
            where=str(folder),
            remedy="the weights and config.json come from different models; copy the folder again",
        )
    return type(model).__name__


def _tail(name: str) -> str:
    """The part of a tensor's name that every naming scheme shares: from the layer number on, or the last two parts.

    LLaVA-1.6's `image_newline` belongs to no layer: it stands alone on the hub, and behind "model." in transformers.
    """
    parts = name.removeprefix("model.").split(".")
    numbers = [position for position, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[0] :] if numbers else parts[-2:])


def _inspect_adapter(folder: Path) -> CheckpointInfo:
    config = read_json(folder / "adapter_config.json", "adapter configuration")
    weights = folder / "adapter_model.safetensors"
    if not weights.exists():
        raise BadInputError("the adapter has no adapter_model.safetensors", where=str(folder))
    shapes = safetensors_shapes(weights)
    if not any(".lora_" in name for name in shapes):
        raise BadInputError("the adapter holds no LoRA weights", where=str(weights))
    pattern = config.get("rank_pattern") or {}
    for name, shape in shapes.items():
        said = rank_in(pattern, name.rpartition(".lora_A.")[0], config.get("r"))
        if ".lora_A." in name and shape[0] != said:
            raise BadInputError(
                f"the adapter's weights have rank {shape[0]} in {name}, its configuration says {said}",
                where=str(folder),
            )
    base = config.get("base_model_name_or_path")
    if not base:
        raise BadInputError("the adapter does not name its base model", where=str(folder / "adapter_config.json"))
    return CheckpointInfo("adapter", str(config.get("peft_type", "LORA")), str(base), fingerprint(folder))
