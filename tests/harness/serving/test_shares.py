"""How a machine is divided between engines: every GPU and every core to one of them, never more than there are."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.config import parse
from harness.core.errors import BadInputError
from harness.serving.shares import Share, core_shares, gpu_shares, shares
from harness.serving.vllm import VllmSettings


def test_gpus_keep_their_names_and_go_to_the_engines_in_groups() -> None:
    assert gpu_shares(["0", "1", "2", "3"], engines=2, workers=2) == [Share(("0", "1")), Share(("2", "3"))]
    named = gpu_shares(["GPU-a", "GPU-b", "GPU-c"], engines=3, workers=1)
    assert [one.environment({"A": "1"}) for one in named] == [
        {"A": "1", "CUDA_VISIBLE_DEVICES": name} for name in ("GPU-a", "GPU-b", "GPU-c")
    ]
    with pytest.raises(
        BadInputError, match="4 engines of 2 workers each need 8 GPUs, but this machine has 4"
    ) as caught:
        gpu_shares(["0", "1", "2", "3"], engines=4, workers=2)
    assert "--shard" in str(caught.value.remedy)


@given(cores=st.integers(1, 200), engines=st.integers(1, 8), workers=st.integers(1, 4))
def test_cores_are_dealt_equally_and_none_twice(cores: int, engines: int, workers: int) -> None:
    if cores < engines * workers:
        with pytest.raises(BadInputError, match=f"need {engines * workers} cores, but this machine has {cores}"):
            core_shares(range(cores), engines, workers)
        return
    dealt = [worker for share in core_shares(range(cores), engines, workers) for worker in share.cores]
    assert len(dealt) == engines * workers and {len(worker) for worker in dealt} == {cores // (engines * workers)}
    flat = [core for worker in dealt for core in worker]
    assert flat == list(range(len(flat)))


def test_one_engine_has_the_machine() -> None:
    assert shares(1, 4) == [Share()] and Share().environment({}) == {}
    with pytest.raises(BadInputError, match="this machine has"):
        shares(10 * (os.cpu_count() or 1), 1)


def test_settings_that_do_not_go_together() -> None:
    ray = {"distributed_executor_backend": "ray", "pipeline_parallel_size": 2}
    assert parse(VllmSettings, ray, "backend vllm").identity("vllm") == "vllm", "how it is spread changes no answer"
    with pytest.raises(BadInputError, match=r"contradict each other: data_parallel_size .* --shard"):
        parse(VllmSettings, {**ray, "data_parallel_size": 2}, "backend vllm")
    with pytest.raises(BadInputError, match=r"'mpi'.*distributed_executor_backend"):
        parse(VllmSettings, {"distributed_executor_backend": "mpi"}, "backend vllm")
