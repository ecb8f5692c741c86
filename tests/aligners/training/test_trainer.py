"""The trainer on a small untrained model: a killed run goes on as if nothing had happened, micro-batches do not matter, NaN stops."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aligners.base import Logps, Loss, Stage, StageContext
from aligners.chip import CHiP
from aligners.dpo import DPO
from aligners.mfpo import MFPO
from aligners.symmpo import SymMPO
from aligners.training import run as training
from aligners.training.job import AlignJob
from aligners.training.log import Recorder
from aligners.training.memory.batch import accumulation
from aligners.training.microbatches import MicroBatches
from aligners.training.planning.preflight import preflight
from aligners.training.trainer import PreferenceTrainer, RunningStage
from harness.core.config import TrainSettings
from harness.core.errors import BadInputError, HarnessError
from harness.core.types import PreferenceExample
from tests import warm
from tests.aligners.training.test_plan import job as plan_job
from tests.aligners.training.test_plan import started

SETTINGS = {
    "learning_rate": 2e-3,
    "batch_size": 8,
    "micro_batch_size": 8,
    "max_length": 256,
    "lora": {"rank": 4, "alpha": 8},
}


def trained(aligner: Any, base: Path, data: Path, output: Path, **settings: Any) -> dict[str, torch.Tensor]:
    output.mkdir(parents=True, exist_ok=True)
    train = TrainSettings.model_validate({**SETTINGS, **settings})
    result = training.train(aligner, AlignJob(str(base), str(data), output, train, output / "cache"))
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


@pytest.mark.claims("train.precision")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpointing", "tuning"),
    [
        (True, "lora"),
        (False, "full"),
        pytest.param(False, "lora", marks=pytest.mark.exhaustive),
        pytest.param(True, "full", marks=pytest.mark.exhaustive),
    ],
)
def test_training_in_bfloat16_follows_float32(
    tuning: str, checkpointing: bool, base: Path, pairs: Path, tmp_path: Path
) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        settings = {"tuning": tuning, "precision": precision, "gradient_checkpointing": checkpointing, "epochs": 2}
        (tmp_path / precision).mkdir()
        train = TrainSettings.model_validate({**SETTINGS, "learning_rate": 1e-3, **settings})
        result = training.train(DPO(), AlignJob(str(base), str(pairs), tmp_path / precision, train, tmp_path / "cache"))
        assert result.summary.bfloat16 == (precision == "bfloat16")
        losses[precision] = [row["loss"] for row in rows(tmp_path / precision)]
    fallen = losses["float32"][0] - losses["float32"][-1]
    assert fallen > 0.02
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=fallen / 3)
    assert losses["bfloat16"] != losses["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_method_that_needs_the_references_distribution_gets_it(
    tuning: str, base: Path, pairs: Path, tmp_path: Path
) -> None:
    settings = {"tuning": tuning, "epochs": 2, "learning_rate": 2e-3 if tuning == "lora" else 1e-3}
    output = tmp_path / tuning
    output.mkdir()
    job = AlignJob(
        str(base), str(pairs), output, TrainSettings.model_validate({**SETTINGS, **settings}), tmp_path / "c"
    )
    training.train(CHiP(CHiP.Settings(beta=5.0)), job)
    log = rows(output)
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and log[0]["logit_token"] == pytest.approx(0, abs=1e-6)
    assert abs(log[-1]["logit_token"]) > 1e-4, "the policy has moved away, and the divergence says nothing of it"
    assert log[-1]["loss"] < 0.69


@pytest.mark.slow
def test_five_branches_over_two_images(base: Path, pairs: Path, tmp_path: Path) -> None:
    aligner = SymMPO(SymMPO.Settings(beta=0.5, lambda_pair=1.0))
    trained(aligner, base, pairs, tmp_path, epochs=4)
    log = rows(tmp_path)
    assert log[0]["loss"] == pytest.approx(5 * 0.6931, abs=2e-3)
    assert log[-1]["loss"] < 3.3 and log[-1]["margin_cross_image"] > 0


@pytest.mark.claims("train.savings.reference_cache", "mfpo.stages.reference")
@pytest.mark.slow
def test_reference_values_are_shared_by_methods_and_sweeps(base: Path, pairs: Path, tmp_path: Path) -> None:
    def run(name: str, aligner: Any, **settings: Any) -> list[str]:
        (tmp_path / name).mkdir()
        train = TrainSettings.model_validate({**SETTINGS, **settings})
        result = training.train(aligner, AlignJob(str(base), str(pairs), tmp_path / name, train, tmp_path / "cache"))
        return [stage.reference for stage in result.summary.stages]

    assert run("mfpo", MFPO(MFPO.Settings.model_validate({"stages": {"reference": "initial"}}))) == ["computed"] * 3
    assert run("dpo", DPO()) == ["from disk"]
    assert run("sweep", DPO(DPO.Settings(beta=1.0)), learning_rate=1e-4) == ["from disk"]
    assert run("off", DPO(), savings={"reference_cache": False}) == ["computed"]
    # In bfloat16, adapters are on rounded weights, and full tuning rounds in the step only: their values differ.
    assert run("lora in bfloat16", DPO(), precision="bfloat16") == ["computed"]
    assert run("full in bfloat16", DPO(), precision="bfloat16", tuning="full") == ["computed"]


class InTwo(DPO):
    """DPO on the first few pairs, and then on the last ones."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def stages(self, examples: Sequence[PreferenceExample], context: StageContext) -> list[Stage]:
        return [Stage("first", examples[: self.first]), Stage("last", examples[30:])]


class Edited(InTwo):
    """The method after its author changed the code: name and settings are as before."""

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        return Loss(-super().loss(policy, reference).per_example)


@pytest.mark.slow
def test_a_later_stages_reference_belongs_to_what_was_trained_on_before_it(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    def run(name: str, first: int, kind: type[InTwo] = InTwo) -> list[str]:
        (tmp_path / name).mkdir()
        train = TrainSettings.model_validate(SETTINGS)
        result = training.train(
            kind(first), AlignJob(str(base), str(pairs), tmp_path / name, train, tmp_path / "cache")
        )
        return [stage.reference for stage in result.summary.stages]

    assert run("one", 20) == ["computed", "computed"]
    assert run("again", 20) == ["from disk", "from disk"]
    assert run("fewer", 12) == ["from disk", "computed"], "the first model's values are shared, no other's"
    assert run("edited", 20, Edited) == ["from disk", "computed"], "the same settings made other weights"


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(BadInputError, match="cannot be divided among 3 processes") as caught:
        accumulation(TrainSettings(batch_size=32), 3)
    assert "train.batch_size=33" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("environment", "settings", "problem", "remedy"),
    [
        ({"WORLD_SIZE": "3"}, {}, "cannot be divided among 3 processes", "train.batch_size=33"),
        ({"ACCELERATE_USE_FSDP": "true"}, {"tuning": "qlora"}, "in 4 bits cannot be trained with FSDP", "--lora"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {"tuning": "qlora"}, "in 4 bits cannot be trained with FSDP", "--lora"),
    ],
)
def test_a_launch_that_does_not_fit_is_refused_before_anything_is_read_or_made(
    environment: dict[str, str],
    settings: dict[str, Any],
    problem: str,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    train = TrainSettings.model_validate(settings)
    with pytest.raises(BadInputError, match=problem) as caught:
        preflight(AlignJob("no model", "no data", tmp_path / "run", train, tmp_path / "cache"))
    assert remedy in str(caught.value.remedy) and caught.value.exit_code == 2 and not list(tmp_path.iterdir())


def test_processes_drop_different_inputs_and_the_first_those_of_a_single_one(
    base: Path, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers seeds every process alike, so that they would share their masks."""
    settings = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.5}, "micro_batch_size": "auto", "batch_size": 4}
    caplog.set_level(logging.INFO)
    session, encoded = started(DPO(), plan_job(base, pairs, tmp_path, **settings))
    assert "dropout depends on train.micro_batch_size" in caplog.text
    drawn = []
    for rank in range(3):
        session.process = SimpleNamespace(process_index=rank)
        batches = MicroBatches(session, encoded, 1, 1, 4, (rank, 3))
        recorder = Recorder(tmp_path / "log", "all", lambda count: None, session.process)
        PreferenceTrainer(RunningStage(session, batches, None, tmp_path, recorder, threading.Event()))
        drawn.append(torch.rand(8).tolist())
    torch.manual_seed(session.train_settings.seed)
    assert drawn[0] == torch.rand(8).tolist() and drawn[0] != drawn[1] != drawn[2] != drawn[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param("dpo", marks=pytest.mark.exhaustive), "mfpo"])
def test_a_killed_run_ends_with_the_same_weights(method: str, base: Path, pairs: Path, tmp_path: Path) -> None:
    def command(name: str, *more: str) -> list[str]:
        settings = [
            "learning_rate=2e-3",
            "epochs=3",
            "batch_size=8",
            "micro_batch_size=8",
            "save_steps=2",
            "max_length=256",
        ]
        sets = [part for one in settings for part in ("--set", f"train.{one}")]
        return ["align", "--method", method, "--model", str(base), "--data", str(pairs),
                "--name", name, *sets, *more]  # fmt: skip

    assert warm.run(command("whole"), cwd=tmp_path).returncode == 0
    process = warm.start(
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

    refused = warm.run(command("killed"), cwd=tmp_path)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    other = warm.run(command("killed", "--resume", "--seed", "5"), cwd=tmp_path)
    assert other.returncode == 2 and "other settings" in other.stderr
    assert warm.run(command("killed", "--resume"), cwd=tmp_path).returncode == 0

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
        loss = super().loss(policy, reference)
        worst = loss.per_example.clone()
        worst[policy["chosen"].sums.argmin()] = float("nan")
        return Loss(worst, loss.metrics)


def test_a_loss_that_is_not_finite_stops_and_names_the_example(base: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="not finite at step 0") as caught:
        trained(Broken(), base, pairs, tmp_path)
    assert "examples" in str(caught.value.where) and "no checkpoint yet" in str(caught.value.remedy)
    assert not (tmp_path / "checkpoint").exists()


class Steep(DPO):
    """From its third step on, the loss is finite and its gradient is not."""

    steps = 0

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        loss = super().loss(policy, reference)
        self.steps += 1
        if self.steps <= 2:
            return loss
        nothing = loss.per_example - loss.per_example.detach()
        return Loss(loss.per_example + (nothing**2).sqrt(), loss.metrics)


def test_a_gradient_that_is_not_finite_spoils_no_checkpoint(base: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="gradient is not finite at step 2") as caught:
        trained(Steep(), base, pairs, tmp_path, save_steps=1)
    good = tmp_path / "stages" / "1-all" / "checkpoint-2"
    assert str(good) in str(caught.value.remedy)
    weights = load_file(good / "adapter_model.safetensors")
    assert all(value.isfinite().all() for value in weights.values()) and any(value.any() for value in weights.values())
    named = str(caught.value.where).removeprefix("examples ").split(", ")
    assert len(set(named)) == 8 and set(named) <= {str(number) for number in range(45)}


class Hungry(DPO):
    """A method that takes more memory than there is."""

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        torch.empty(2**48)
        raise AssertionError("a petabyte was there")


class HungryOnGpu(DPO):
    """The same, as a GPU says it."""

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        raise torch.OutOfMemoryError("Tried to allocate 3.00 GiB")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "said"), [(Hungry, "tried to allocate"), (HungryOnGpu, "3.00 GiB")])
@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({}, "train.micro_batch_size=4"),
        ({"micro_batch_size": 1}, "gradient_checkpointing=true"),
        ({"micro_batch_size": 1, "gradient_checkpointing": True}, "train.max_length"),
    ],
)
def test_too_little_memory_says_what_to_lower(
    method: type[DPO], said: str, settings: dict[str, Any], remedy: str, base: Path, pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(HarnessError, match="out of memory with") as caught:
        trained(method(), base, pairs, tmp_path, **settings)
    assert said in caught.value.problem
    assert remedy in str(caught.value.remedy) and "by prediction" in str(caught.value.remedy)
    assert str(caught.value.remedy).endswith(f"resume with --resume --name {tmp_path.name}")


def test_other_errors_of_torch_are_not_taken_for_too_little_memory(base: Path, pairs: Path, tmp_path: Path) -> None:
    class Wrong(DPO):
        def loss(self, policy: Logps, reference: Logps) -> Loss:
            torch.ones(2) @ torch.ones(3)
            raise AssertionError("these do not multiply")

    with pytest.raises(RuntimeError, match=r"size mismatch|inconsistent tensor size"):
        trained(Wrong(), base, pairs, tmp_path)


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(base: Path, pairs: Path, tmp_path: Path) -> None:
    sets = [part for one in ("epochs=40", "batch_size=8", "micro_batch_size=8", "max_length=256", "learning_rate=2e-3")
            for part in ("--set", f"train.{one}")]  # fmt: skip
    command = ["align", "--method", "dpo", "--model", str(base), "--data", str(pairs),
               "--name", "one", *sets]  # fmt: skip
    process = warm.start(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    log = tmp_path / "results" / "one" / "train_log.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    done = len(log.read_text().splitlines())
    assert process.returncode not in (0, None) and "--resume --name one" in said and "interrupted at step" in said
    assert 0 < done < 240
    assert list((tmp_path / "results" / "one" / "stages").glob(f"*/checkpoint-{done}"))


def test_no_examples_is_an_error(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(BadInputError):
        trained(DPO(), base, tmp_path / "empty.jsonl", tmp_path / "run")


@pytest.mark.slow
def test_adams_second_beta_reaches_the_optimizer(base: Path, pairs: Path, tmp_path: Path) -> None:
    usual = trained(DPO(), base, pairs, tmp_path / "usual")
    same = trained(DPO(), base, pairs, tmp_path / "same", adam_beta2=0.999)
    other = trained(DPO(), base, pairs, tmp_path / "other", adam_beta2=0.5)
    assert all(torch.equal(value, same[name]) for name, value in usual.items())
    assert any(not torch.equal(value, other[name]) for name, value in usual.items())
