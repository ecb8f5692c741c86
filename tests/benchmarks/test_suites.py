"""What holds for all suites."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.amber import AMBER, AmberSettings
from benchmarks.base import Benchmark
from benchmarks.halbench import ObjectHalBench
from benchmarks.hallusionbench import HallusionBench
from benchmarks.llava_bench import LLaVABench
from benchmarks.mm_vet import MMVet
from benchmarks.mme import MME
from benchmarks.mmhal import MMHalBench
from benchmarks.mmstar import MMStar
from benchmarks.pope import POPE


@pytest.mark.parametrize(
    "benchmark",
    [
        *(ObjectHalBench(), AMBER(AmberSettings(nouns="spacy", similarity="exact")), POPE(), MMHalBench()),
        *(MMStar(), MME(), HallusionBench(), LLaVABench(), MMVet()),
    ],
)
def test_metrics_are_what_aggregate_returns(benchmark: Benchmark) -> None:
    class Ones(dict[str, np.ndarray]):
        def __missing__(self, key: str) -> np.ndarray:
            return np.array([1.0, 2.0, 0.0])

    values = benchmark.aggregate(Ones())
    assert {spec.id for spec in benchmark.metrics} == set(values)
    assert all(np.shape(value) == (3,) for value in values.values()), "one value a resample"
    assert len({spec.id for spec in benchmark.metrics}) == len(benchmark.metrics)
    assert any(spec.headline for spec in benchmark.metrics)
