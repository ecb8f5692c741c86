"""The base model of seed 0 comes with the package, so that the first leaderboard waits for no training and is the same on every CPU.

`python -m harness.worlds.pocket.ship` (in a checkout) trains it again, scores it on the test split and replaces the files. The weights
are stored in bfloat16, 3 MB, and unpacked to float32 in the user's cache folder; the stored values are the model.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

from harness.core.files import read_json, sha256_file

FOLDER = Path(__file__).with_name("base")
SEED = 0
WEIGHTS = "model.safetensors"
ABOUT = "made.json"


def about() -> dict[str, Any]:
    """What the shipped base was made with and what it scored: `recipe`, `torch`, `arithmetic`, `date`, `scores`, `sha256`."""
    return read_json(FOLDER / ABOUT, "manifest of the shipped base model")


@functools.cache
def digest() -> str:
    """SHA-256 of the shipped weights, computed from the file: the identity of the base model."""
    return sha256_file(FOLDER / WEIGHTS)


def unpack(target: Path) -> None:
    """Write the base model in float32 into the new folder `target`."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(FOLDER, target, ignore=shutil.ignore_patterns(ABOUT, WEIGHTS))
    tensors = {name: value.to(torch.float32) for name, value in load_file(FOLDER / WEIGHTS).items()}
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})


def pack(trained: Path, target: Path) -> None:
    """Write a trained base model, as `PocketWorld.model` has it, with its weights in bfloat16 into the new folder `target`."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(trained, target, ignore=shutil.ignore_patterns(WEIGHTS))
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in load_file(trained / WEIGHTS).items()}
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
