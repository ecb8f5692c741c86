"""`export`, `merge` and `report` killed again and again, and two writers at once: whole results or none, and nothing beside them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

from harness.core.removal import REMOVED
from harness.core.temporary import SUFFIX
from tests import warm
from tests.chaos.kills import make as make_questions
from tests.tiny import tiny_pairs

_ALIGN = ("--set", "train.lora.rank=2", "--set", "train.epochs=1", "--set", "train.max_length=256")
_SHORT = ["--set", "sampling.max_new_tokens=4"]
ALIGN = ["align", "--method", "dpo", "--model", "./base", "--data", "pairs/rlaif-v.parquet", *_ALIGN]
EVAL = ["eval", "--model", "./base", "--data", "data", "--suite", "pope", "--backend", "transformers"]
EVAL += _SHORT
COMMANDS = {
    "export": (["export", "one", "-o", "exported", "--overwrite"], "exported"),
    "merge": (
        ["merge", "base-base", "--suite", "pope", "--data", "data", *_SHORT],
        "results/base-base/evals/pope@data/responses.jsonl",
    ),
    "report": (["report", "-o", "report.html"], "report.html"),
}
"""Command, and what it leaves."""


def make(folder: Path, items: int = 24) -> None:
    """A base, an aligned run, and a POPE that was answered in two shards."""
    make_questions(folder, items)
    tiny_pairs(folder / "pairs", 8)
    done(folder, [*ALIGN, "--name", "one"])
    for shard in ("1/2", "2/2"):
        done(folder, [*EVAL, "--shard", shard])


def killed(folder: Path, name: str, kills: int, seed: int = 0) -> list[str]:
    """Kill a command at random moments of its time and let it end at last; gives back what is wrong with what it left."""
    command, left = COMMANDS[name]
    started = time.monotonic()
    done(folder, command)
    whole, first, rng = time.monotonic() - started, content(folder / left), random.Random(seed)
    wrong = []
    for _ in range(kills):
        if name == "merge":  # what is merged is not merged again
            for path in ("responses.jsonl", "serving.json", "scores.json", "items.jsonl"):
                (folder / left).with_name(path).unlink(missing_ok=True)
        process = start(folder, command)
        time.sleep(rng.uniform(0.1, 1.0) * whole)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        # The log of answers is appended to; everything else appears as a whole.
        if name != "merge" and (folder / left).exists() and content(folder / left) != first:
            wrong.append(f"{name}: a kill left something half written")
    done(folder, command)
    if content(folder / left) != first:
        wrong.append(f"{name}: another result after kills")
    beside = [*(folder / left).parent.glob(f".*{SUFFIX}"), *(folder / left).parent.glob(f".*{REMOVED}")]
    return wrong + [f"{name}: {path.name} was left over" for path in beside]


def two_writers(folder: Path) -> list[str]:
    """Start a command, stop the clock for it while it writes, and start it again: the second is refused, the first ends well."""
    wrong = []
    for command, lock in (
        ([*ALIGN, "--name", "two", "--resume"], "results/.locks/two.lock"),
        ([*EVAL, "--results", "both"], "both/base-base/evals/pope@data/.responses.lock"),
    ):
        first = start(folder, command)
        # Who holds it stands in the lock's file. To try the lock would be to hold it for a moment, and refuse the first one.
        while not ((folder / lock).exists() and str(first.pid) in (folder / lock).read_text()):
            if first.poll() is not None:
                return [*wrong, f"{command[0]} wrote without the lock {lock}: {first.communicate()[1]}"]
            time.sleep(0.005)
        os.killpg(first.pid, signal.SIGSTOP)
        try:
            second = start(folder, command)
            said = second.communicate()[1]
        finally:
            os.killpg(first.pid, signal.SIGCONT)
        if second.returncode != 2 or "another process is writing" not in " ".join(said.split()) or "Traceback" in said:
            wrong.append(f"{command[0]}: the second ends with {second.returncode}: {said}")
        said = first.communicate()[1]
        if first.returncode:
            wrong.append(f"{command[0]}: the first ends with {first.returncode}: {said}")
    return wrong


def content(path: Path) -> str:
    """What stays the same: items and answers of a log, all weights in a folder, whether a report is whole."""
    if path.suffix == ".html":
        return "whole" if path.read_text(encoding="utf-8").rstrip().endswith("</html>") else "cut off"
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return str(sorted((row["item"], row["text"]) for row in rows))
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(one.read_bytes() for one in files)).hexdigest()


def start(folder: Path, command: list[str]) -> warm.Started:
    """A command in a process group of its own."""
    return warm.start(
        command,
        cwd=folder,
        env={**os.environ, "HARNESS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def done(folder: Path, command: list[str]) -> None:
    """The same, which must end well."""
    process = start(folder, command)
    said = process.communicate()[1]
    assert process.returncode == 0, said
