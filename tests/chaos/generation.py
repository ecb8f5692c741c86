"""`harness data generate` that is killed again and again: the same set, to the byte, and no answer and no verdict twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.speed.generation import command, write_prompts

PATIENCE_S = 900


def killed(folder: Path, backend: str, prompts: int, samples: int, kills: int, seed: int = 0) -> Iterator[int | str]:
    """Make a set undisturbed, and once more with kills at random points of the work; yields the number of each kill, then what is wrong.

    Every other kill waits for the moment after so many answers; the last ones come while answers are judged and pairs written.
    """
    rng = random.Random(seed)
    write_prompts(folder, prompts)
    parts = ["--part-size", str(max(1, prompts // 4))]
    started = time.monotonic()
    subprocess.run([*command(samples, "calm", backend), *parts], cwd=folder, check=True, capture_output=True)
    whole = time.monotonic() - started
    total = prompts * samples
    for number in range(kills):
        # The last kill finds all answers on the disk, and comes while they are judged and paired.
        low, high = (round(total * point / max(1, kills - 1)) for point in (number, number + 1))
        wanted = min(total, rng.randint(low, max(low, high - 1)))
        process = subprocess.Popen(
            [*command(samples, "killed", backend), *parts],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + PATIENCE_S
        while process.poll() is None and _answers(folder) < wanted and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.02 * whole))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        yield number + 1
    subprocess.run([*command(samples, "killed", backend), *parts], cwd=folder, check=True, capture_output=True)
    yield _wrong(folder, total)


def _wrong(folder: Path, total: int) -> str:
    """What differs between the two sets; "" if nothing does."""
    names = sorted(path.name for path in (folder / "calm").glob("*.parquet"))
    if names != sorted(path.name for path in (folder / "killed").glob("*.parquet")):
        return "the sets have other files"
    for name in [*names, "config.json"]:
        if (folder / "calm" / name).read_bytes() != (folder / "killed" / name).read_bytes():
            return f"{name} differs"
    if _answers(folder) != total:
        return f"{_answers(folder)} answers in the logs instead of {total}"
    verdicts = [line for path in _logs(folder, "verdicts") for line in path.read_text().splitlines()]
    return "" if len(set(verdicts)) == len(verdicts) else "a verdict is in a log twice"


def _logs(folder: Path, name: str) -> list[Path]:
    return sorted((folder / "killed/candidates").glob(f"*/{name}.jsonl"))


def _answers(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in _logs(folder, "responses"))
