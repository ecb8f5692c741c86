"""The base model of seed 0 and the captions that it sampled for the preference pairs come with the package, so that the first leaderboard
waits for neither, and everybody trains on the same pairs: a sampled token depends on how a CPU rounds.

`python -m harness.worlds.pocket.ship` (in a checkout) trains the model again, samples, scores it on the test split and replaces the files.
The weights are stored in bfloat16, 3 MB, and unpacked to float32 in the user's cache folder; the stored values are the model.
"""

from __future__ import annotations

import functools
import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.core.files import read_json, sha256_file

FOLDER = Path(__file__).with_name("base")
SEED = 0
WEIGHTS = "model.safetensors"
SAMPLES = "samples.json.gz"
ABOUT = "made.json"
_BESIDE = shutil.ignore_patterns(ABOUT, SAMPLES, WEIGHTS)
"""What is no plain copy of the model's folder."""


def about() -> dict[str, Any]:
    """What the shipped base was made with and what it scored: `recipe`, `torch`, `arithmetic`, `date`, `scores`, `sha256`; and
    `samples`: the same of the captions."""
    return read_json(FOLDER / ABOUT, "manifest of the shipped base model")


@functools.cache
def digest() -> str:
    """SHA-256 of the shipped weights, computed from the file: the identity of the base model."""
    return sha256_file(FOLDER / WEIGHTS)


@functools.cache
def samples_digest() -> str:
    """SHA-256 of the file of captions, their identity."""
    return sha256_file(FOLDER / SAMPLES)


def samples() -> list[str]:
    """The base model's caption for each picture of the preference split, as `preferences.sample_base` gives them."""
    captions: list[str] = json.loads(gzip.decompress((FOLDER / SAMPLES).read_bytes()))
    return captions


def pack_samples(captions: Sequence[str], target: Path) -> None:
    """Write captions into the folder `target`; the same captions give the same bytes."""
    (target / SAMPLES).write_bytes(gzip.compress(json.dumps(captions, indent=0).encode(), mtime=0))


def unpack(target: Path) -> None:
    """Write the base model in float32 into the new folder `target`."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(FOLDER, target, ignore=_BESIDE)
    tensors = {name: value.to(torch.float32) for name, value in load_file(FOLDER / WEIGHTS).items()}
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})


def pack(trained: Path, target: Path) -> None:
    """Write a trained base model, as `PocketWorld.model` has it, with its weights in bfloat16 into the new folder `target`."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(trained, target, ignore=shutil.ignore_patterns(WEIGHTS))
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in load_file(trained / WEIGHTS).items()}
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
