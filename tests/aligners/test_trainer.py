"""The trainer on a small untrained model: a killed run goes on as if nothing had happened, micro-batches do not matter, NaN stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aligners.base import AlignJob, Logps, Loss
from aligners.dpo import DPO
from aligners.mfpo import MFPO
from harness.config import TrainSettings
from harness.errors import BadInputError, HarnessError
from tests.tiny import tiny_llava, tiny_parts

SETTINGS = {
    "learning_rate": 2e-3,
    "batch_size": 8,
    "micro_batch_size": 8,
    "max_length": 256,
    "lora": {"rank": 4, "alpha": 8},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-five pairs with pictures and boxes: the last batch of an epoch is a short one."""
    from harness.pocket.preferences import make_pairs, write_preferences
    from harness.pocket.training import Base

    folder = tmp_path_factory.mktemp("pairs")
    model, processor = tiny_parts()
    write_preferences(make_pairs(Base(model.eval(), processor), 0, 45), folder)
    return folder / "rlaif-v.parquet"


def trained(aligner: Any, base: Path, data: Path, output: Path, **settings: Any) -> dict[str, torch.Tensor]:
    output.mkdir(parents=True, exist_ok=True)
    train = TrainSettings.model_validate({**SETTINGS, **settings})
    result = aligner.align(AlignJob(str(base), str(data), output, train, output / "cache"))
    return load_file(result.checkpoint / "adapter_model.safetensors")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("method", [DPO, MFPO])
def test_micro_batches_do_not_change_the_weights(method: type, base: Path, pairs: Path, tmp_path: Path) -> None:
    whole = trained(method(), base, pairs, tmp_path / "whole")
    parts = trained(method(), base, pairs, tmp_path / "parts", micro_batch_size=2)
    assert whole.keys() == parts.keys()
    assert any(value.abs().max() > 1e-3 for name, value in whole.items() if "lora_B" in name), "nothing was learned"
    for name, value in whole.items():
        torch.testing.assert_close(
            value, parts[name], rtol=1e-2, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
def test_training_lowers_the_loss_and_raises_the_margin(base: Path, pairs: Path, tmp_path: Path) -> None:
    trained(DPO(DPO.Settings(beta=0.5)), base, pairs, tmp_path, epochs=8)
    log = rows(tmp_path)
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3), "policy and reference differ before the first step"
    assert log[-1]["loss"] < 0.5 and log[-1]["margin"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "mfpo"])
def test_a_killed_run_ends_with_the_same_weights(method: str, base: Path, pairs: Path, tmp_path: Path) -> None:
    def command(name: str, *more: str) -> list[str]:
        settings = [
            "learning_rate=2e-3",
            "epochs=6",
            "batch_size=8",
            "micro_batch_size=8",
            "save_steps=3",
            "max_length=256",
        ]
        sets = [part for one in settings for part in ("--set", f"train.{one}")]
        return [sys.executable, "-m", "harness", "align", "--method", method, "--model", str(base), "--data", str(pairs),
                "--name", name, *sets, *more]  # fmt: skip

    subprocess.run(command("whole"), cwd=tmp_path, check=True, capture_output=True)
    process = subprocess.Popen(
        command("killed"), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    stages = tmp_path / "results" / "killed" / "stages"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list(stages.glob("*/checkpoint-*/trainer_state.json")) or list(stages.glob("*/finished.safetensors")):
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    assert not (tmp_path / "results" / "killed" / "manifest.json").exists()

    refused = subprocess.run(command("killed"), cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    other = subprocess.run(command("killed", "--resume", "--seed", "5"), cwd=tmp_path, capture_output=True, text=True)
    assert other.returncode == 2 and "other settings" in other.stderr
    subprocess.run(command("killed", "--resume"), cwd=tmp_path, check=True, capture_output=True)

    ends = [
        load_file(tmp_path / "results" / name / "checkpoint" / "adapter_model.safetensors")
        for name in ("whole", "killed")
    ]
    for name, value in ends[0].items():
        torch.testing.assert_close(
            value, ends[1][name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


class Broken(DPO):
    """A method whose loss is not finite for one example."""

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        found = super().loss(policy, reference)
        worst = found.per_example.clone()
        worst[policy["chosen"].sums.argmin()] = float("nan")
        return Loss(worst, found.metrics)


def test_a_loss_that_is_not_finite_stops_and_names_the_example(base: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="not finite at step 0") as caught:
        trained(Broken(), base, pairs, tmp_path)
    assert "examples" in str(caught.value.where)
    assert not (tmp_path / "checkpoint").exists()


def test_no_examples_is_an_error(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(BadInputError):
        trained(DPO(), base, tmp_path / "empty.jsonl", tmp_path / "run")
