"""Checking that the tensors of a checkpoint's folder, by name and shape, are those of the model in its config.json."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError
from harness.core.files import read_json, sha256_file
from harness.models import pretrained
from harness.models.known import known

Shapes = dict[str, tuple[int, ...]]

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
_SHARD = re.compile(r"model-\d+-of-(\d+)\.safetensors")
_GREATEST_HEADER = 100 * 2**20
"""Maximum size of a header in bytes; the safetensors library has the same limit."""
_MOST_LAYERS = 10_000
"""More layers than any model has; building a configuration with more would take hours."""
_LLAVA = ("llava_llama", "llava_mistral", "llava_mpt", "llava_qwen", "llava_gemma")
"""Values of `model_type` in LLaVA's own repository, which transformers does not know."""

_WRAPPERS = re.compile(
    r"^(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+|"
    r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""Parts that DDP, torch.compile, FSDP and activation checkpointing add to tensor names."""


def unwrapped(name: str) -> str:
    """A tensor's name without the parts that training wrappers add."""
    return _WRAPPERS.sub("", name)


@dataclass(frozen=True)
class Fit:
    """The weights of a folder fit a model of the class `architecture`, with or without wrapper names."""

    architecture: str
    wrapped: bool


def fit(folder: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Fit:
    """Compare a folder's tensors, by their full names and shapes, with those of the model that config.json describes.

    transformers' own report decides, so it handles renamings between its versions and tied weights.

    Raises:
        BadInputError: the folder holds no weights or no such model, or a weight is missing, has another shape, or does not belong to the
        model.
    """
    if not (folder / "config.json").is_file():
        raise BadInputError(
            "this is not a checkpoint: it has neither config.json nor adapter_config.json",
            where=str(folder),
            remedy="give a folder that transformers or PEFT saved",
        )
    shapes = stored(folder) if shapes is None else shapes
    compared = {"config": sha256_file(folder / "config.json"), "shapes": dict(shapes)}
    found = json.loads(known("architecture", compared, lambda: _find_out(folder, shapes)))
    return Fit(str(found["architecture"]), bool(found["wrapped"]))


def _find_out(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> str:
    _check_config(folder)
    config = pretrained.configuration(folder)
    architecture, report = pretrained.report_on(config, folder, shapes)
    bare = {unwrapped(name): shape for name, shape in shapes.items()}
    wrapped = False
    if report["missing_keys"] and bare.keys() != shapes.keys() and len(bare) == len(shapes):
        _, stripped = pretrained.report_on(config, folder, bare)
        wrapped = not any(stripped[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    if not wrapped:
        pretrained.refuse_unloaded(report, folder)
    return json.dumps({"architecture": architecture, "wrapped": wrapped})


def _check_config(folder: Path) -> None:
    """Check what transformers reports badly or not at all.

    Raises:
        BadInputError: config.json is not a JSON object, is LLaVA's own, or has more layers than any model.
    """
    path = folder / "config.json"
    config = read_object(path, "model's configuration")
    if config.get("model_type") in _LLAVA or (folder / "mm_projector.bin").exists():
        raise BadInputError(
            f"this is LLaVA's own layout (model_type {config.get('model_type')}), which transformers cannot load",
            where=str(folder),
            remedy="use the converted model, e.g. --model llava-1.5-7b, or convert it with convert_llava_weights_to_hf.py, which "
            "is part of transformers (models/llava)",
        )
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name, value in part.items():
            if ("layers" in name or name == "depth") and isinstance(value, (int, float)) and not value <= _MOST_LAYERS:
                raise BadInputError(
                    f"config.json says {name}: {str(value)[:40]}, which is impossible",
                    where=str(path),
                    remedy="copy the file again",
                )


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON file that must contain an object.

    Raises:
        BadInputError: it does not exist, or contains something else.
    """
    value = read_json(path, what, finite=False)
    if not isinstance(value, dict):
        raise BadInputError(
            f"the {what} contains {type(value).__name__} instead of an object",
            where=str(path),
            remedy="copy it again",
        )
    return value


def stored(folder: Path) -> Shapes:
    """Shapes of all tensors of a (sharded) checkpoint.

    Raises:
        BadInputError: there are none in safetensors format, a file is missing or broken, or the folder contains two sets of weights.
    """
    shapes: Shapes = {}
    for name in weight_files(folder):
        shapes |= safetensors_shapes(folder / name)
    return shapes


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold a checkpoint's weights.

    Raises:
        BadInputError: there are none, one is missing, or it is ambiguous which to use.
    """
    whole = (folder / WHOLE).is_file()
    shards = sorted(path.name for path in folder.glob("model-*-of-*.safetensors") if _SHARD.fullmatch(path.name))
    if (folder / INDEX).is_file():
        names = _indexed(folder)
        if whole and WHOLE not in names:
            raise BadInputError(
                f"the folder contains two sets of weights: {WHOLE}, and {len(names)} shards that {INDEX} names; transformers would load "
                "the first, vLLM the second",
                where=str(folder),
                remedy="remove the wrong one (usually a stale copy)",
            )
        return names
    if whole and shards:
        raise BadInputError(
            f"the folder contains two sets of weights: {WHOLE}, and {len(shards)} shards without {INDEX}; vLLM would load both",
            where=str(folder),
            remedy="remove the wrong ones",
        )
    if whole:
        return [WHOLE]
    if shards:
        of = int(_SHARD.fullmatch(shards[0]).group(1))  # type: ignore[union-attr]
        raise BadInputError(
            f"{INDEX} is missing, next to {len(shards)} of {of} shards: an unfinished copy or download",
            where=str(folder),
            remedy="copy the missing files from the source of the others",
        )
    raise _no_weights(folder)


def _indexed(folder: Path) -> list[str]:
    names = read_object(folder / INDEX, "weight index").get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise BadInputError(
            "the weight index has no weight_map from tensors to files",
            where=str(folder / INDEX),
            remedy="copy it again",
        )
    files = sorted(set(names.values()))
    for name in files:
        if Path(name).name != name:
            raise BadInputError(
                f"the weight index names a file outside its folder: {name[:100]}",
                where=str(folder / INDEX),
                remedy="copy it again from a source that you trust",
            )
        if not (folder / name).is_file():
            raise BadInputError(
                f"the weight file {name} that the index names is missing",
                where=str(folder),
                remedy="copy it from the source of the others",
            )
    return files


def _no_weights(folder: Path) -> BadInputError:
    if config := (folder / "config.json").is_file():
        _check_config(folder)  # LLaVA's own layout has pickles, too, and gets a more specific error
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles and config:
        return BadInputError(
            f"the weights are Python pickles ({pickles[0]}), which can run code when they are read; only safetensors are accepted",
            where=str(folder),
            remedy="if you trust them, convert them: load the model with transformers and save it again",
        )
    return BadInputError(
        "the checkpoint has no weights in safetensors format",
        where=str(folder),
        remedy=f"use a folder with {WHOLE}, or with {INDEX} and its shards",
    )


def safetensors_shapes(path: Path) -> Shapes:
    """Tensor names and shapes from a safetensors header; checks that the file is as long as the header says.

    Raises:
        BadInputError: truncated, a Git LFS pointer, or not a safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            raise BadInputError(
                "the weight file is a Git LFS pointer: the weights themselves were not downloaded",
                where=str(path),
                remedy="git lfs pull in its folder, or download the model with `hf download`",
            )
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, _GREATEST_HEADER):
            raise BadInputError(
                "the weight file is truncated or not in safetensors format", where=str(path), remedy="copy it again"
            )
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
            shapes = {str(name): tuple(map(int, entry["shape"])) for name, entry in header.items()}
        except (ValueError, RecursionError, AttributeError, KeyError, IndexError, TypeError, OverflowError):
            raise BadInputError(
                "the weight file's header is broken", where=str(path), remedy="copy or export it again"
            ) from None
    if 8 + length + end != size:
        raise BadInputError(
            f"the weight file has {size} bytes, its header says {str(8 + length + end)[:20]}",
            where=str(path),
            remedy="copy or export it again",
        )
    return shapes
