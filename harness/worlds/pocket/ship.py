"""Makes the shipped base model again: `python -m harness.worlds.pocket.ship`, in a checkout."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness.core.files import sha256_file, write_json
from harness.core.removal import remove
from harness.worlds.pocket.shipped import ABOUT, FOLDER, SAMPLES, SEED, WEIGHTS, pack, pack_samples, unpack
from harness.worlds.pocket.world import recipe_hash, sample_model, train_model

_COMMAND = "python -m harness.worlds.pocket.ship"


def scores(cache: Path) -> dict[str, dict[str, Any]]:
    """Headline metrics of the shipped base on the test split: `{"halbench[spacy]": {"chair_s": {"value": ..., "ci": [...]}}}`.

    Args:
        cache: an empty folder for everything that is made for it.
    """
    command = [sys.executable, "-m", "harness", "eval", "--model", "pocket", "--suite", "halbench,amber,pope,mmhal"]
    done = subprocess.run(
        [*command, "--results", str(cache / "results"), "--json"],
        env=os.environ | {"HARNESS_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return {
        f"{record['suite']}[{record['variant']}]" if record["variant"] else record["suite"]: {
            name: {"value": metric["value"], "ci": metric["ci"]}
            for name, metric in record["metrics"].items()
            if metric["headline"]
        }
        for record in json.loads(done.stdout)
    }


def ship_samples() -> dict[str, str]:
    """Sample the shipped model again on this machine, and replace its captions; returns what the manifest says of them."""
    import torch

    from harness.models import devices

    with tempfile.TemporaryDirectory() as scratch:
        unpack(Path(scratch) / "base")
        pack_samples(sample_model(Path(scratch) / "base", SEED), FOLDER)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__.partition("+")[0],
        "arithmetic": "bfloat16" if devices.multiplies_bfloat16() else "float32",
        "sha256": sha256_file(FOLDER / SAMPLES),
    }


def ship(trained: Path | None = None) -> None:
    """Train (or take the folder `trained`, which was trained on this machine), pack, replace the shipped files, sample, score."""
    import torch

    from harness.models import devices

    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch) / "packed"
        if trained is None:
            trained = Path(scratch) / "trained"
            train_model(SEED, trained)
        pack(trained, packed)
        if FOLDER.exists():
            remove(FOLDER, within=FOLDER.parent)
        shutil.copytree(packed, FOLDER)
        made = {
            "seed": SEED,
            "command": _COMMAND,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "recipe": recipe_hash(),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "torch": torch.__version__.partition("+")[0],
            "arithmetic": "bfloat16" if devices.multiplies_bfloat16() else "float32",
            "sha256": sha256_file(FOLDER / WEIGHTS),
            "samples": ship_samples(),
        }
        write_json(FOLDER / ABOUT, made)
        write_json(FOLDER / ABOUT, made | {"scores": scores(Path(scratch) / "cache")})


if __name__ == "__main__":
    ship()
