"""A training run that is killed at random points of its time and resumed each time: the same weights, to the bit."""

from __future__ import annotations

import contextlib
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

    A kill comes a random moment after a random step; every fourth comes on the way to its first step instead: while the model is
    loaded, the data are prepared, or a reference is computed.

    Returns:
        Whether the final weights are equal to the bit, and how often the run was killed before it was done.
    """
    started = time.monotonic()
    subprocess.run(_command("calm"), cwd=folder, env=_environment(folder, "calm"), check=True, capture_output=True)
    whole, rng, hits = time.monotonic() - started, random.Random(seed), 0
    steps = _steps(folder, "calm")
    points = sorted(rng.sample(range(1, steps), kills))
    for number, point in enumerate(points):
        process = subprocess.Popen(
            _going_on(folder),
            cwd=folder,
            env=_environment(folder, "killed"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if number % 4 == 3:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(0.02, 0.4) * whole)
        else:
            while process.poll() is None and _steps(folder, "killed") < point:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 2 * whole / steps))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            hits += 1
        elif process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
        process.wait()
    if not (folder / "results" / "killed" / "manifest.json").exists():
        command = _going_on(folder)
        subprocess.run(command, cwd=folder, env=_environment(folder, "killed"), check=True, capture_output=True)
    calm, killed = (
        (folder / "results" / name / "checkpoint" / "adapter_model.safetensors").read_bytes()
        for name in ("calm", "killed")
    )
    return calm == killed, hits


def _steps(folder: Path, name: str) -> int:
    """Steps that a run's log tells of."""
    log = folder / "results" / name / "train_log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _going_on(folder: Path) -> list[str]:
    return [*_command("killed"), *(["--resume"] if (folder / "results" / "killed").exists() else [])]


def _command(name: str) -> list[str]:
    sets = [part for one in _SETTINGS for part in ("--set", f"train.{one}")]
    return [sys.executable, "-m", "harness", "align", "--method", "mfpo", "--model", "./model",
            "--data", "pairs/rlaif-v.parquet", "--name", name, *sets]  # fmt: skip


def _environment(folder: Path, name: str) -> dict[str, str]:
    return {**os.environ, "HARNESS_CACHE": str(folder / f"cache-{name}"), "OMP_NUM_THREADS": "1"}
