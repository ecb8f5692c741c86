"""`make chaos`: an evaluation of 2,000 items and a training run, killed again and again, and endpoints that fail; nothing may be lost."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import endpoints, folders, generation, training
from tests.chaos.faults import FAULTS
from tests.chaos.kills import Outcome, Victim, killed, make, undisturbed


def main() -> int:
    """Run the kills and say what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--only",
        choices=(
            *("transformers-harness", "vllm-harness", "vllm-engine"),
            *("training", "endpoints", "folders", "generation-vllm", "generation-transformers"),
        ),
    )
    arguments = parser.parse_args()
    if importlib.util.find_spec("vllm") is None and arguments.only not in ("endpoints", "folders"):
        print("the engine can only be killed where vLLM is installed: make setup", file=sys.stderr)
        return 2
    rounds: tuple[tuple[str, Victim], ...] = (("transformers", "harness"), ("vllm", "harness"), ("vllm", "engine"))
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.only is None or not arguments.only.startswith(("endpoints", "folders", "generation")):
            make(folder, arguments.items)
        for seed, (backend, victim) in enumerate(rounds):
            if arguments.only not in (None, f"{backend}-{victim}"):
                continue
            start, outcome = time.monotonic(), None
            for step in killed(folder, backend, victim, arguments.items, arguments.kills, seed):
                if isinstance(step, Outcome):
                    outcome = step
                else:
                    print(f"\r{backend}, the {victim} killed: {step} of {arguments.kills}", end="", flush=True)
            assert outcome is not None
            calm = undisturbed(folder, backend)
            same = outcome.metrics == calm.metrics and outcome.texts == calm.texts
            once = len(outcome.times) == arguments.items and set(outcome.times.values()) == {1}
            wrong += not (same and once)
            print(
                f": {len(outcome.times)} items, {'each once' if once else 'NOT EACH ONCE'}; answers and scores "
                f"{'as undisturbed' if same else 'DIFFER'}; {time.monotonic() - start:.0f} s"
            )
        if arguments.only in (None, "endpoints"):
            wrong += _endpoints()
        if arguments.only in (None, "folders"):
            wrong += _folders(folder / "folders", arguments.kills)
        for backend in ("vllm", "transformers"):
            if arguments.only in (None, f"generation-{backend}"):
                wrong += _generation(folder / backend, backend, arguments.items // 20, arguments.kills // 2)
        if arguments.only not in (None, "training"):
            return 1 if wrong else 0
        training.make(folder)
        equal, hits = training.same_weights(folder, arguments.kills // 2)
        wrong += not equal
        print(
            f"training killed {hits} times: the final weights {'equal the undisturbed to the bit' if equal else 'DIFFER'}"
        )
    return 1 if wrong else 0


def _generation(folder: Path, backend: str, prompts: int, kills: int) -> bool:
    """Generated pairs with kills; whether the set differs from an undisturbed one."""
    folder.mkdir()
    for step in generation.killed(folder, backend, prompts, 4, kills):
        if isinstance(step, str):
            print(f": {prompts} prompts: {f'NOT THE SAME: {step}' if step else 'the same set to the byte'}")
            return bool(step)
        print(f"\rgenerated pairs, {backend}: {step} of {kills}", end="", flush=True)
    return True


def _endpoints() -> int:
    """Judge and backend through every kind of fault of an endpoint; how many of them they did not come through."""
    bad = 0
    for name, found in endpoints.run_all():
        bad += bool(found)
        for one in found:
            print(f"an endpoint with the fault '{name}': {one}")
    print(
        f"{len(FAULTS)} kinds of fault of an endpoint: {'NOT ' * bool(bad)}all answers kept, none paid twice, budgets held, no key shown"
    )
    return bad


def _folders(folder: Path, kills: int) -> int:
    """`export`, `merge` and `report` killed, two writers, full and read-only places; how many of these went wrong."""
    folder.mkdir()
    folders.make(folder)
    wrong = []
    for name in folders.COMMANDS:
        problems = folders.killed(folder, name, kills)
        wrong += problems
        print(f"{name} killed {kills} times: {'; '.join(problems) or 'whole, as undisturbed, and nothing left over'}")
    problems = folders.two_writers(folder)
    wrong += problems
    print(f"two writers: {'; '.join(problems) or 'the second is refused'}")
    places = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/harness/core/test_full_and_read_only.py",
        ]
    )
    return len(wrong) + (places.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
