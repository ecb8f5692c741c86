"""The measurements behind `make speed`. Each yields figures with the bound that they are held to."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Figure:
    """One measured figure; `bound` is the largest (or, with `at_least`, the smallest) acceptable value, None where it is only reported."""

    what: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the figure keeps its bound."""
        return self.bound is None or (self.value >= self.bound if self.at_least else self.value <= self.bound)

    @property
    def shown(self) -> str:
        """The figure with its unit."""
        return f"{self.value:,.2f} {self.unit}"

    @property
    def bound_shown(self) -> str:
        """The bound with its direction."""
        return "" if self.bound is None else f"{'≥' if self.at_least else '≤'} {self.bound:g} {self.unit}"


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def timed(command: list[str], **options: object) -> float:
    """Seconds that a command takes; it must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    return time.perf_counter() - start


def help_() -> Iterator[Figure]:
    """`harness --help`: median of five, after one to warm the disk."""
    command = [str(Path(sys.executable).with_name("harness")), "--help"]
    timed(command)
    yield Figure("harness --help", statistics.median(timed(command) for _ in range(5)), "s", 0.5)


ROUNDS = 3


def quickstart() -> Iterator[Figure]:
    """`make quickstart` in a fresh clone with an empty cache and no environment, then again without its results: medians of three."""
    rounds = [_quickstart() for _ in range(ROUNDS)]
    for what, unit, bound in (
        ("make quickstart, fresh clone: set-up, tables and report", "min", 6),
        ("make quickstart again, without its results", "min", 3),
        ("environment, cache and results on disk", "GB", 4),
    ):
        values = [values[what] for values in rounds]
        spread = f", {min(values):.2f} to {max(values):.2f}"
        yield Figure(f"{what} (median of {ROUNDS}{spread})", statistics.median(values), unit, bound)


def _as_typed() -> dict[str, str]:
    """The environment without what `make speed ARGS=quickstart` says to the `make` commands below it: ARGS would reach them, too."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "ARGS")
    }


def _quickstart() -> dict[str, float]:
    """One round: minutes and gigabytes by the name of the figure."""
    with tempfile.TemporaryDirectory() as folder:
        clone, cache = Path(folder) / "clone", Path(folder) / "cache"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = _as_typed() | {"HARNESS_CACHE": str(cache)}
        first = timed(["make", "quickstart"], cwd=clone, env=environment)
        size = sum(file.lstat().st_size for top in (clone, cache) for file in top.rglob("*") if not file.is_symlink())
        shutil.rmtree(clone / "results")
        second = timed(["make", "quickstart"], cwd=clone, env=environment)
        return {
            "make quickstart, fresh clone: set-up, tables and report": first / 60,
            "make quickstart again, without its results": second / 60,
            "environment, cache and results on disk": size / 2**30,
        }


def scorers() -> Iterator[Figure]:
    """Scoring on one process, start-up apart: made-up responses of the official sizes, the official rules."""
    from tests.speed import scoring

    for what, seconds, bound in scoring.whole_suites():
        yield Figure(what, seconds, "s", bound)
    for what, rate in scoring.extraction():
        yield Figure(what, rate, "responses/s", 5000, at_least=True)
    yield Figure(
        "AMBER similarity by pipeline, times faster than a call a pair", scoring.similarity(), "x", 50, at_least=True
    )


def statistics_() -> Iterator[Figure]:
    """Intervals and paired tests of four suites and ten runs, 10,000 resamples, on counts of the official shapes."""
    import numpy as np

    from benchmarks.amber import AMBER
    from benchmarks.halbench import ObjectHalBench
    from benchmarks.mmhal import MMHalBench
    from benchmarks.pope import POPE
    from harness.core.stats import Counts, intervals, paired

    rng = np.random.default_rng(0)
    shapes: list[tuple[Any, int]] = [(ObjectHalBench(), 300), (AMBER(), 1004), (POPE(), 500), (MMHalBench(), 96)]
    runs = []
    for benchmark, images in shapes:
        names = _count_names(benchmark)
        clusters = tuple(map(str, range(images)))
        runs.append(
            (
                benchmark,
                [Counts(names, clusters, rng.integers(0, 5, (images, len(names))).astype(float)) for _ in range(10)],
            )
        )
    start = time.perf_counter()
    for benchmark, counts in runs:
        for count in counts:
            intervals(count, benchmark.aggregate, resamples=10_000)
        for count in counts[1:]:
            paired(count, counts[0], benchmark.aggregate, resamples=10_000)
    yield Figure("intervals and paired tests, 4 suites, 10 runs, 10,000 resamples", time.perf_counter() - start, "s", 3)


def generator_() -> Iterator[Figure]:
    """MFPO's image preference generator with boxes given, images of 336 pixels: JPEG in, a published set out."""
    from tests.speed import generator

    for what, rate, unit, bound in generator.rates(cores()):
        yield Figure(what, rate, unit, bound, at_least=True)


def serving() -> Iterator[Figure]:
    """What the harness costs above vLLM's engine, and what the order of requests is worth; `SPEED_SIZE=0.1` makes both smaller."""
    from tests.speed import serving as measured

    size = _size()
    count, images = round(5000 * size), max(measured.LEAST_IMAGES, round(100 * size))
    yield Figure(f"harness over vLLM's engine, {count:,} requests", 100 * measured.overhead(count), "% more time", 5)
    ratio = measured.grouped_over_shuffled(images)
    yield Figure(f"grouped over shuffled order, {images} images x 15, 576 image tokens", ratio, "x", 1.5, at_least=True)


def memory_() -> Iterator[Figure]:
    """What an item more costs the harness's own process, images apart; `SPEED_SIZE=0.1` takes fewer."""
    from tests.speed import memory as measured

    few = round(1000 * _size())
    found = measured.growth(few, 4 * few)
    what = f"memory an item, {4 * few:,} items over {few:,}, images of {found.image / 1e6:.1f} MB"
    yield Figure(what, found.item / 1000, "kB", 10)


def generation() -> Iterator[Figure]:
    """`data generate` with the judge `chair` beside vLLM's engine alone, and its memory; `SPEED_SIZE=0.1` takes fewer prompts."""
    from tests.speed import generation as measured

    prompts, samples = round(1000 * _size()), 10
    rates = measured.rates(prompts, samples)
    what = f"data generate over vLLM's engine, {prompts * samples:,} answers, whole processes"
    yield Figure(what, 100 * rates.harness / rates.engine, "% of its rate", 90, at_least=True)
    few, many = measured.growth(prompts, 10 * prompts)
    what = (
        f"memory a prompt, {10 * prompts:,} prompts over {prompts:,} ({many / 2**20:,.0f} over {few / 2**20:,.0f} MiB)"
    )
    yield Figure(what, (many - few) / (9 * prompts) / 1000, "kB", 10)


def leaderboard() -> Iterator[Figure]:
    """A leaderboard of 300 full runs, 15 GB of score files that are made first (some minutes); `SPEED_SIZE=0.1` takes fewer."""
    from tests.speed import leaderboards

    for what, value, unit, bound in leaderboards.measured(max(2, round(300 * _size()))):
        yield Figure(what, value, unit, bound)


def score_() -> Iterator[Figure]:
    """`harness score` of 100 MB of descriptions; `SPEED_SIZE=0.1` takes fewer."""
    from tests.speed import memory as measured

    megabytes = 100 * _size()
    share, seconds = measured.score_file(megabytes)
    yield Figure(f"harness score of {megabytes:.0f} MB, memory above start-up, of the file", share, "x", 1.5)
    yield Figure(f"harness score of {megabytes:.0f} MB", seconds, "s")


def _size() -> float:
    return float(os.environ.get("SPEED_SIZE", "1"))


def _count_names(benchmark: Any) -> tuple[str, ...]:
    """The names of the counts that a benchmark's metrics are made of."""
    from collections import defaultdict

    import numpy as np

    asked: dict[str, Any] = defaultdict(lambda: np.ones(()))
    benchmark.aggregate(asked)
    return tuple(dict.fromkeys((*asked, "n")))


def training() -> Iterator[Figure]:
    """DPO beside TRL's trainer, MFPO beside DPO."""
    from tests.speed import training as sides

    yield from sides.training()


def gpu() -> Iterator[Figure]:
    """The same at 7 B, where there is a GPU."""
    from tests.speed import training as sides

    yield from sides.on_gpu()


ALL: dict[str, Callable[[], Iterator[Figure]]] = {
    "help": help_,
    "scorers": scorers,
    "score": score_,
    "statistics": statistics_,
    "generator": generator_,
    "training": training,
    "serving": serving,
    "memory": memory_,
    "generation": generation,
    "leaderboard": leaderboard,
    "quickstart": quickstart,
    "gpu": gpu,
}
