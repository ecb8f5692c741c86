"""MPO: its loss in float64, and the running mean of the rewards, which `--resume` goes on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from aligners.base import Aligner, Stage, StageContext
from aligners.mpo import MPO, MPOSettings
from aligners.training import run as training
from aligners.training.resume import restore_state
from harness.core.config import TrainSettings, merged
from harness.core.errors import BadInputError
from harness.core.types import PreferenceExample
from tests.aligners.test_losses import both, ratios, sigmoid_loss, slopes_agree
from tests.aligners.training.test_cost_only import KilledError, killed_at
from tests.aligners.training.test_resume import job, weights


@pytest.mark.claims("mpo.beta", "mpo.lambda_preference", "mpo.lambda_quality", "mpo.lambda_generation")
def test_mpo() -> None:
    policy, reference = both(("chosen", "rejected"))
    settings = MPOSettings(beta=0.3, lambda_preference=0.7, lambda_quality=0.4, lambda_generation=1.3)
    aligner = MPO(settings)
    aligner.state = {"reward": 0.25, "steps": 1.0}
    computed = aligner.loss(policy, reference)
    for row in range(5):
        r = {name: 0.3 * value for name, value in ratios(policy, reference, row).items()}
        chosen = policy["chosen"]
        logps = [float(chosen.tokens[row, k]) for k in range(7) if chosen.mask[row, k]]
        expected = (
            0.7 * sigmoid_loss(r["chosen"] - r["rejected"])
            + 0.4 * (sigmoid_loss(r["chosen"] - 0.25) + sigmoid_loss(0.25 - r["rejected"]))
            - 1.3 * sum(logps) / len(logps)
        )
        assert float(computed.per_example[row]) == pytest.approx(expected, abs=1e-6)
        assert float(computed.metrics["loss_generation"][row]) == pytest.approx(-sum(logps) / len(logps), abs=1e-6)
    slopes_agree(aligner, policy, reference)


@pytest.mark.claims("mpo.shift")
def test_the_shift_is_the_mean_of_earlier_rewards() -> None:
    policy, reference = both(("chosen", "rejected"))
    aligner, without = MPO(), MPO(MPOSettings(shift="none"))
    torch.testing.assert_close(aligner.loss(policy, reference).per_example, without.loss(policy, reference).per_example)
    for chosen, rejected in ((0.5, -0.1), (1.0, 0.2), (0.0, 0.4)):
        for one in (aligner, without):
            one.after_step({"loss": 1.0, "reward_chosen": chosen, "reward_rejected": rejected})
    assert aligner.state == {"reward": pytest.approx((0.2 + 0.6 + 0.2) / 3), "steps": 3} and without.state == {}
    row = aligner.loss(policy, reference).metrics["loss_quality"][0]
    r = {name: 0.1 * value for name, value in ratios(policy, reference, 0).items()}
    assert float(row) == pytest.approx(
        sigmoid_loss(r["chosen"] - 1 / 3) + sigmoid_loss(1 / 3 - r["rejected"]), abs=1e-6
    )


def test_defaults_are_those_of_the_paper() -> None:
    """docs/methods.md lists the sources."""
    settings = MPOSettings()
    assert (settings.beta, settings.lambda_preference, settings.lambda_quality, settings.lambda_generation) == (
        0.1,
        0.8,
        0.2,
        1.0,
    )
    train = TrainSettings.model_validate(merged({"train": dict(MPO.train_defaults)})["train"])
    assert (train.learning_rate, train.weight_decay, train.warmup_ratio, train.tuning) == (5e-6, 0.05, 0.03, "full")


class LargeShift(MPO):
    """MPO in which the shift is felt."""

    def __init__(self) -> None:
        super().__init__(MPOSettings(beta=1.0, lambda_quality=5.0))


class TwoStages(LargeShift):
    """The same in two stages."""

    def stages(self, examples: Sequence[PreferenceExample], context: StageContext) -> list[Stage]:
        half = len(examples) // 2
        return [Stage("first", examples[:half], "initial"), Stage("second", examples[half:], "initial")]


def forgotten(kind: Callable[[], Any]) -> Aligner:
    """The method, whose state stays what it was at first."""
    aligner: Aligner = kind()
    aligner.after_step = lambda means: None  # type: ignore[method-assign]
    return aligner


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LargeShift, TwoStages])
def test_a_resumed_run_has_the_state_of_the_killed_one(
    kind: type[Any], base: Path, pairs: Path, tmp_path: Path
) -> None:
    """In two stages it is killed in the second one's first step, when only the finished first stage has a state."""
    done = training.train(kind(), job(base, pairs, tmp_path / "whole"))
    state = done.summary.stages[-1].method_state
    assert all(value != 0 for value in state.values())
    with pytest.raises(KilledError):
        training.train(killed_at(kind, 3), job(base, pairs, tmp_path / "killed"))
    resumed = training.train(kind(), job(base, pairs, tmp_path / "killed", resume=True))
    assert resumed.summary.stages[-1].method_state == pytest.approx(state, rel=1e-5)
    training.train(forgotten(kind), job(base, pairs, tmp_path / "forgotten"))
    expected, found, other = (weights(tmp_path / name) for name in ("whole", "killed", "forgotten"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
    assert max(float((other[name] - value).abs().max()) for name, value in expected.items()) > 1e-5, "no effect"


@pytest.mark.slow
def test_the_state_does_not_depend_on_the_micro_batch(base: Path, pairs: Path, tmp_path: Path) -> None:
    states = []
    for micro in (8, 3):
        done = training.train(
            LargeShift(), job(base, pairs, tmp_path / str(micro), micro_batch_size=micro, lora={"dropout": 0.0})
        )
        states.append(done.summary.stages[0].method_state)
    assert states[0] == pytest.approx(states[1], rel=1e-4)
    for name, value in weights(tmp_path / "8").items():
        torch.testing.assert_close(weights(tmp_path / "3")[name], value, rtol=1e-3, atol=1e-5)


def test_a_checkpoint_without_the_state_is_refused(base: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        training.train(killed_at(MPO, 2), job(base, pairs, tmp_path / "run"))
    path = tmp_path / "run" / "stages" / "1-all" / "checkpoint-1" / "trainer_state.json"
    written = json.loads(path.read_text())
    assert written["stateful_callbacks"]["MethodState"]["attributes"] == {
        "reward": pytest.approx(0, abs=1e-6),
        "steps": 1,
    }
    for state in (None, {"reward": 0.1}, {"reward": "a", "steps": 1.0}):
        written["stateful_callbacks"]["MethodState"] = {} if state is None else {"args": {}, "attributes": state}
        path.write_text(json.dumps(written))
        with pytest.raises(BadInputError, match=r"state of the method 'mpo' \(reward, steps\) is missing") as caught:
            restore_state(MPO(), path.parent)
        assert caught.value.where == str(path) and "--overwrite" in str(caught.value.remedy)
    with pytest.raises(BadInputError, match="state of the method 'mpo'"):
        training.train(MPO(), job(base, pairs, tmp_path / "run", resume=True))
