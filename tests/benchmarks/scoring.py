"""What the tests of the suites share: writing rows, and scoring files as `harness score` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.base import Benchmark
from harness.core.stats import Counts
from harness.evaluation.score import check_coverage


def jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def offline(benchmark: Benchmark, files: dict[str, Path]) -> tuple[dict[str, float], dict[str, str]]:
    items, responses = benchmark.read_offline(files)
    items = check_coverage(items, responses, allow_partial=True)
    totals = Counts.of(benchmark.score(items, responses, benchmark.offline_judge)).totals()
    return {name: float(value) for name, value in benchmark.aggregate(totals).items()}, benchmark.official(totals)
