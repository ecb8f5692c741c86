"""A training run that is killed at random points of its time and resumed each time: the same weights, to the bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.tiny import tiny_llava, tiny_pairs

_SETTINGS = ("learning_rate=2e-3", "epochs=12", "batch_size=8", "micro_batch_size=4", "save_steps=3", "max_length=256")


def make(folder: Path, pairs: int = 60) -> None:
    """An untrained model, and pairs of its own samples."""
    tiny_llava(folder / "model")
    tiny_pairs(folder / "pairs", pairs)


def same_weights(folder: Path, kills: int, seed: int = 0) -> tuple[bool, int]:
    """Train undisturbed and with kills, in a cache of their own each.

    Returns:
        Whether the final weights are equal to the bit, and how often the run was killed before it was done.
    """
    started = time.monotonic()
    subprocess.run(_command("calm"), cwd=folder, env=_environment(folder, "calm"), check=True, capture_output=True)
    whole, rng, hits = time.monotonic() - started, random.Random(seed), 0
    for number in range(kills):
        command = [*_command("killed"), *(["--resume"] if (folder / "results" / "killed").exists() else [])]
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder, "killed"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            # Start-up is about half of the time of so small a run; kills come from its end on, wherever the work is then.
            process.wait(timeout=whole * rng.uniform(0.4, 0.8) if number else whole * 0.5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            hits += 1
        process.wait()
        if (folder / "results" / "killed" / "manifest.json").exists():
            break
    if not (folder / "results" / "killed" / "manifest.json").exists():
        resume = [*_command("killed"), "--resume"]
        subprocess.run(resume, cwd=folder, env=_environment(folder, "killed"), check=True, capture_output=True)
    calm, killed = (
        (folder / "results" / name / "checkpoint" / "adapter_model.safetensors").read_bytes()
        for name in ("calm", "killed")
    )
    return calm == killed, hits


def _command(name: str) -> list[str]:
    sets = [part for one in _SETTINGS for part in ("--set", f"train.{one}")]
    return [sys.executable, "-m", "harness", "align", "--method", "mfpo", "--model", "./model",
            "--data", "pairs/rlaif-v.parquet", "--name", name, *sets]  # fmt: skip


def _environment(folder: Path, name: str) -> dict[str, str]:
    return {**os.environ, "HARNESS_CACHE": str(folder / f"cache-{name}"), "OMP_NUM_THREADS": "1"}
