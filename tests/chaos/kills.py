"""An evaluation that is killed again and again: the harness itself, or its engine, each with SIGKILL at random points."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests import warm
from tests.tiny import tiny_llava, tiny_photograph

Victim = Literal["harness", "engine"]
QUESTIONS_AN_IMAGE = 6
_PATIENCE_S = 900


@dataclass(frozen=True)
class Outcome:
    """What is left after the kills.

    Attributes:
        kills: how many there were.
        answered: answers on disk at each kill.
        times: item -> how often it is in the log.
        texts: item -> answer.
        metrics: metric -> value.
        errors: what the harness said when its engine was killed.
        serving: the record of what answered, of the last evaluation.
    """

    kills: int
    answered: list[int]
    times: Counter[str]
    texts: dict[str, str]
    metrics: dict[str, Any]
    errors: list[str]
    serving: dict[str, Any]


def make(folder: Path, items: int) -> None:
    """An untrained model, and a POPE of so many questions, six an image."""
    tiny_llava(folder / "base")
    images = folder / "data" / "pope" / "images"
    images.mkdir(parents=True)
    rows = []
    for number in range(items):
        name = f"{number // QUESTIONS_AN_IMAGE}.png"
        if number % QUESTIONS_AN_IMAGE == 0:
            tiny_photograph(images / name, number)
        label = ("yes", "no")[number % 2]
        rows.append({"question_id": number, "image": name, "text": f"Is there a dog, {number}?", "label": label})
    path = folder / "data" / "pope" / "coco_pope_random.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


_KILLED_SHARE = 0.85
"""Of the work, the part in which kills come."""


def undisturbed(folder: Path, backend: str, engines: int = 1) -> Outcome:
    """The evaluation without a kill."""
    results = folder / f"calm-{backend}-{engines}"
    done = warm.run(_command(backend, results, engines), cwd=folder)
    assert done.returncode == 0, done.stderr
    return _outcome(folder, results, [], [])


def killed(
    folder: Path,
    backend: str,
    victim: Victim,
    items: int,
    kills: int,
    seed: int = 0,
    engines: int = 1,
    engines_at_last: int | None = None,
) -> Iterator[int | Outcome]:
    """The evaluation with kills, each at a random point of its own part of the work; yields the number of each, then the outcome."""
    rng = random.Random(seed)
    results = folder / f"killed-{backend}-{engines}-{victim}"
    command = _command(backend, results, engines)
    answered, errors = [], []
    for number in range(kills):
        # An engine has up to a burst of answers under way, after which nothing would be left to be killed in.
        low, high = (round(items * _KILLED_SHARE * point / kills) for point in (number, number + 1))
        process = warm.start(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _wait_for(process, results, rng.randint(low, high), victim)
        time.sleep(rng.uniform(0, 0.1))
        assert process.poll() is None, "it was over before it could be killed"
        children = _children(process.pid)
        hit = process.pid if victim == "harness" else rng.choice(children)
        os.kill(hit, signal.SIGKILL)
        said = process.communicate(timeout=_PATIENCE_S)[1]
        for child in children:  # an engine whose harness is gone ends by itself
            _wait_gone(child)
        if victim == "engine":
            assert process.returncode == 1 and "SIGKILL" in said and "Traceback" not in said, said
            errors.append(said)
        answered.append(_count(results))
        yield number + 1
    command = _command(backend, results, engines_at_last or engines)
    done = warm.run([*command, "--resume"], cwd=folder)
    assert done.returncode == 0, done.stderr
    yield _outcome(folder, results, answered, errors)


def _command(backend: str, results: Path, engines: int) -> list[str]:
    options = ["--backend", backend, "--set", "sampling.max_new_tokens=8", "--results", str(results), "--json"]
    several = ["--set", f"backend.data_parallel_size={engines}"] if engines > 1 else []
    command = ["eval", "--model", "./base", "--data", "data", "--suite", "pope"]
    return [*command, *options, *several]


def _log(results: Path) -> Path:
    return results / "base-base" / "evals" / "pope@data" / "responses.jsonl"


def _count(results: Path) -> int:
    return _log(results).read_bytes().count(b"\n") if _log(results).exists() else 0


def _wait_for(process: warm.Started, results: Path, answers: int, victim: Victim) -> None:
    """Until so many answers are on the disk (or, at none, the engine runs), and there is a victim."""
    deadline = time.monotonic() + _PATIENCE_S
    serving = _log(results).with_name("serving.json")
    # Answers come in bursts: the last kill may have left as many as this one waits for.
    while _count(results) < answers or not serving.exists() or (victim == "engine" and not _children(process.pid)):
        assert process.poll() is None, f"it was over before it could be killed: {process.communicate()[1]}"
        assert time.monotonic() < deadline, "it came to nothing"
        time.sleep(0.005)


def _children(pid: int) -> list[int]:
    """Processes that a process started (Linux)."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 120
    while Path(f"/proc/{pid}").exists() and _state(pid) != "Z":
        assert time.monotonic() < deadline, f"process {pid} outlives the harness that started it"
        time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def _outcome(folder: Path, results: Path, answered: list[int], errors: list[str]) -> Outcome:
    rows = [json.loads(line) for line in _log(results).read_text().splitlines()]
    scores = json.loads(_log(results).with_name("scores.json").read_text())
    return Outcome(
        len(answered),
        answered,
        Counter(row["item"] for row in rows),
        {row["item"]: row["text"] for row in rows},
        {name: metric["value"] for name, metric in scores["metrics"].items()},
        errors,
        json.loads(_log(results).with_name("serving.json").read_text()),
    )
