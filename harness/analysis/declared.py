"""What benchmarks declare about score files; the benchmark is found by the suite's name and settings, if the suite is installed."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.core import registry
from harness.core.config import parse
from harness.core.contract import verdict_on
from harness.core.declared import Chart, Verdict, verdict_of
from harness.core.errors import BadInputError, HarnessError

if TYPE_CHECKING:
    from benchmarks.base import Benchmark
    from harness.records.score_files import ScoresRecord

_LAST = 1 << 30
"""The place of a suite that is not installed."""


def benchmark_of(record: ScoresRecord) -> Benchmark:
    """The benchmark that made a score record, with the recorded settings; records with equal settings share one object.

    Raises:
        HarnessError: the suite is not installed, or does not know the settings.
    """
    return _benchmark(record.suite, json.dumps(record.settings, sort_keys=True), tuple(sys.path))


def fresh(record: ScoresRecord) -> Benchmark:
    """As `benchmark_of`, but a new object, because reading items changes it.

    Raises:
        HarnessError: as `benchmark_of`.
    """
    return _made(record.suite, json.dumps(record.settings, sort_keys=True))


@functools.lru_cache(maxsize=64)
def _benchmark(suite: str, settings: str, path: tuple[str, ...]) -> Benchmark:
    """`path` is `sys.path`, along which suites are found."""
    return _made(suite, settings)


def _made(suite: str, settings: str) -> Benchmark:
    kind = registry.load("benchmarks", suite)
    found: Benchmark = kind(parse(kind.Settings, json.loads(settings), f"suite {suite}"))
    return found


def known(record: ScoresRecord) -> Benchmark | None:
    """As `benchmark_of`, but None if it cannot be loaded. What only the benchmark declares is then not shown; `collect` notes why."""
    try:
        return benchmark_of(record)
    except HarnessError:
        return None


def suite_place(suite: str) -> int:
    """A suite's place in tables, for sorting; suites that are not installed come last."""
    return _place(suite, tuple(sys.path))


@functools.cache
def _place(suite: str, path: tuple[str, ...]) -> int:
    try:
        place: int = registry.load("benchmarks", suite).place
    except HarnessError:
        return _LAST
    return place


def metric_side(suite: str, metric: str) -> str:
    """The group that a metric belongs to: its own if it declares one, or else its suite's; "" if neither does."""
    return _side(suite, metric, tuple(sys.path))


@functools.cache
def _side(suite: str, metric: str, path: tuple[str, ...]) -> str:
    try:
        benchmark: Benchmark = registry.load("benchmarks", suite)()
        specs = [*benchmark.metrics, *(benchmark.matched.metrics if benchmark.matched else ())]
    except HarnessError:
        return ""
    own = next((spec.group for spec in specs if spec.id == metric and spec.group is not None), None)
    return benchmark.group if own is None else own


def rated_suite() -> str:
    """The suite whose answers a judge rates, for commands in which `--suite` is optional.

    Raises:
        BadInputError: there is none, or there are several.
    """
    rated = []
    for name in registry.entries("benchmarks"):
        try:
            if registry.load("benchmarks", name).hallucinated_below is not None:
                rated.append(name)
        except HarnessError:  # the command that names it reports why
            continue
    if len(rated) != 1:
        what = f"the suites {', '.join(rated)} are rated by a judge" if rated else "no suite here is rated by a judge"
        raise BadInputError(f"--suite is missing: {what}", remedy="choose one: --suite NAME")
    return rated[0]


def charts_of(suite: str) -> Sequence[Chart]:
    """The charts that a suite declares; none if the suite is not installed."""
    try:
        charts: Sequence[Chart] = registry.load("benchmarks", suite).charts
    except HarnessError:
        return ()
    return charts


def verdicts(record: ScoresRecord) -> Callable[[Mapping[str, Any]], Verdict]:
    """A function that returns the verdict on a row of the record's items; if the benchmark is not installed, by `verdict_of`."""
    found = known(record)
    return functools.partial(verdict_on, found) if found is not None else verdict_of
