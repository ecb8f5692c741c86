"""How long a leaderboard of full runs takes: four suites each, with as many items as the official ones, in real score files.

Answers and verdicts are made by the scorers from made-up responses, a handful of times for each suite; every run then has each item from
one of these, by its own seed, with its own sums and intervals. So the files are of the real size (about 50 MB a run) and no two are alike.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.peak import peak_bytes
from tests.scored_suites import make_runs


def measured(count: int) -> Iterator[tuple[str, float, str, float | None]]:
    """(what, value, unit, bound) of the first and the second leaderboard of so many runs, each in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["HARNESS_CACHE"] = str(folder / "cache")
        make_runs(folder / "results", ["base-m", *(f"dpo-{number:03}" for number in range(1, count))])
        size = sum(file.stat().st_size for file in (folder / "results").rglob("*") if file.is_file())
        yield f"leaderboard of {count} full runs: their files", size / 2**30, "GB", None
        yield (
            "what is kept of them",
            sum(f.stat().st_size for f in (folder / "cache").rglob("*") if f.is_file()) / 2**20,
            "MB",
            None,
        )
        command = [sys.executable, "-m", "harness", "leaderboard", "--json"]
        for what, bound in (("the first time after they were scored", None), ("again", 5.0)):
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            yield what, time.perf_counter() - start, "s", bound
        yield "again: memory", peak_bytes(command, folder) / 2**20, "MB", 300
        shutil.rmtree(folder / "cache")
        yield "with nothing kept: memory", peak_bytes(command, folder) / 2**20, "MB", 300
