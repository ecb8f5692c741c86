"""Denormal numbers are taken as 0 during a training, in all threads of a new process, and only then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from aligners.dpo import DPO
from harness.alignment.align import AlignRequest, run_align
from harness.core.denormals import flushed_denormals
from tests.tiny import tiny_llava, tiny_pairs

ALL_THREADS = """
import torch
from harness.core.denormals import flushed_denormals
with flushed_denormals():
    values = torch.full((1 << 22,), 1e-39) * 1.0
    assert torch.get_num_threads() > 1, "one thread shows nothing"
    print(int((values.double() != 0).sum()))
print(float((torch.tensor(1e-39) * 1.0).double()))
"""


def smallest() -> float:
    return float((torch.tensor(1e-39) * 1.0).double())


def test_the_mode_ends_with_the_context() -> None:
    assert smallest() > 0
    with flushed_denormals():
        assert smallest() == 0
        with flushed_denormals():
            assert smallest() == 0
        assert smallest() == 0, "the inner context left it as it was"
    assert smallest() > 0


def test_every_thread_that_torch_starts_has_the_mode() -> None:
    code = f"import os; os.environ['OMP_NUM_THREADS'] = '4'\n{ALL_THREADS}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left, outside = done.stdout.split()
    assert int(left) == 0 and float(outside) > 0


@pytest.mark.slow
def test_a_training_runs_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    loss = DPO.loss

    def watched(self: DPO, *given: Any) -> Any:
        seen.append(smallest())
        return loss(self, *given)

    monkeypatch.setattr(DPO, "loss", watched)
    base, pairs = tiny_llava(tmp_path / "base"), tiny_pairs(tmp_path, 2)
    settings = {"train": {"batch_size": 1}}
    run_align(AlignRequest("dpo", str(base), tmp_path / "results", data=str(pairs), settings=settings, canary=False))
    assert seen and not any(seen)
