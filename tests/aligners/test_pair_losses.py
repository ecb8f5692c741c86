"""The losses that `dpo` has besides its own: float64 formulas, TRL's functions, and a training without a reference."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from aligners.base import BranchLogps
from aligners.dpo import DPO, DPOSettings
from aligners.training import run as training
from aligners.training import values
from aligners.training.log import reward_metrics
from tests.aligners.test_losses import both, ratios, sigmoid_loss, slopes_agree
from tests.aligners.training.test_cost_only import KilledError, killed_at
from tests.aligners.training.test_resume import job, weights


def lengths(policy: dict[str, BranchLogps], row: int) -> tuple[int, int]:
    """Tokens of the chosen and of the rejected response."""
    return int(policy["chosen"].mask[row].sum()), int(policy["rejected"].mask[row].sum())


def of(loss: str, **settings: Any) -> DPO:
    return DPO(DPOSettings.model_validate({"loss": loss, **settings}))


@pytest.mark.claims("dpo.loss", "dpo.per_token")
@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize("loss", ["ipo", "hinge"])
def test_ipo_and_hinge(loss: str, per_token: bool) -> None:
    policy, reference = both(("chosen", "rejected"))
    aligner = of(loss, beta=0.3, per_token=per_token)
    computed = aligner.loss(policy, reference).per_example
    for row in range(5):
        r, (long, short) = ratios(policy, reference, row), lengths(policy, row) if per_token else (1, 1)
        gap = r["chosen"] / long - r["rejected"] / short
        expected = (gap - 1 / (2 * 0.3)) ** 2 if loss == "ipo" else max(0.0, 1 - 0.3 * gap)
        assert float(computed[row]) == pytest.approx(expected, abs=1e-6)
    slopes_agree(aligner, policy, reference)


@pytest.mark.claims("dpo.loss", "dpo.gamma", "dpo.label_smoothing")
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_simpo_needs_no_reference(smoothing: float) -> None:
    policy, _ = both(("chosen", "rejected"))
    aligner = of("simpo", beta=2.5, gamma=0.7, label_smoothing=smoothing)
    computed = aligner.loss(policy, {})
    assert not aligner.uses_reference and of("ipo").uses_reference
    for row in range(5):
        mean = {
            name: sum(float(branch.tokens[row, k]) for k in range(7) if branch.mask[row, k])
            / int(branch.mask[row].sum())
            for name, branch in policy.items()
        }
        margin = 2.5 * mean["chosen"] - 2.5 * mean["rejected"]
        expected = (1 - smoothing) * sigmoid_loss(margin - 0.7) + smoothing * sigmoid_loss(0.7 - margin)
        assert float(computed.per_example[row]) == pytest.approx(expected, abs=1e-6)
        assert float(computed.metrics["reward_chosen"][row]) == pytest.approx(2.5 * mean["chosen"], abs=1e-6)
        assert float(computed.metrics["margin"][row]) == pytest.approx(margin, abs=1e-6)
        assert float(computed.metrics["accuracy"][row]) == (margin > 0)
    slopes_agree(aligner, policy, {})
    assert reward_metrics(policy, {}, 2.5) == {}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["simpo", "hinge", "ipo"])
def test_losses_are_trls(loss: str) -> None:
    """TRL's CPO has these losses without a reference, which is a reference of zeros."""
    cpo = pytest.importorskip("trl.experimental.cpo").CPOTrainer
    policy, reference = both(("chosen", "rejected"))
    zeros = {
        name: BranchLogps(0 * one.sums, 0 * one.tokens, one.mask, one.corrected) for name, one in reference.items()
    }
    trainer = SimpleNamespace(
        alpha=0.0,
        beta=0.4,
        simpo_gamma=0.6,
        label_smoothing=0.0,
        loss_type=loss,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )
    # `get_batch_logps(average_log_prob=...)` of TRL's trainer, which says so for these two.
    means = {name: one.sums / (one.mask.sum(-1) if loss in ("ipo", "simpo") else 1) for name, one in policy.items()}
    expected, chosen, rejected = cpo.cpo_loss(trainer, means["chosen"], means["rejected"])
    computed = of(loss, beta=0.4, **({"gamma": 0.6} if loss == "simpo" else {})).loss(policy, zeros)
    torch.testing.assert_close(computed.per_example, expected, atol=1e-9, rtol=1e-9)
    if loss == "simpo":
        torch.testing.assert_close(computed.metrics["reward_chosen"], chosen)
        torch.testing.assert_close(computed.metrics["reward_rejected"], rejected)


@pytest.mark.claims("dpo.loss")
def test_kto_of_pairs() -> None:
    """Its divergences are those of the step before, and constants of the loss."""
    policy, reference = both(("chosen", "rejected"))
    aligner = of("kto-pair", beta=0.3)
    assert float(aligner.loss(policy, policy).per_example[0]) == 0.5, "a model that is its own reference"
    aligner.after_step({"loss": 0.4, "reward_chosen": 0.6, "reward_rejected": -0.9})
    for kl_chosen, kl_rejected in ((2.0, 0.0), (0.0, 1.5)):  # in nats: 0.6 / 0.3, and -3 counts as 0
        computed = aligner.loss(policy, reference).per_example
        for row in range(5):
            r = ratios(policy, reference, row)
            good = 1 / (1 + math.exp(-0.3 * (r["chosen"] - kl_rejected)))
            bad = 1 / (1 + math.exp(-0.3 * (kl_chosen - r["rejected"])))
            assert float(computed[row]) == pytest.approx((1 - good + 1 - bad) / 2, abs=1e-6)
        slopes_agree(aligner, policy, reference)
        aligner.after_step({"loss": 0.4, "reward_chosen": -0.1, "reward_rejected": 0.45})


def test_defaults_by_loss() -> None:
    """docs/methods.md lists them."""
    assert [(of(loss).settings.beta, of(loss).settings.per_token) for loss in ("sigmoid", "hinge", "ipo", "simpo")] == [
        (0.1, False),
        (0.1, False),
        (0.1, True),
        (2.0, True),
    ]
    assert of("simpo").settings.gamma == 1.0
    assert of("simpo", beta=0.5).settings.beta == 0.5 and not of("ipo", per_token=False).settings.per_token


@pytest.mark.parametrize(
    ("loss", "setting", "value"),
    [
        ("sigmoid", "gamma", 0.5),
        ("ipo", "label_smoothing", 0.1),
        ("simpo", "length_penalty", 0.01),
        ("kto-pair", "per_token", True),
    ],
)
def test_a_setting_that_the_loss_does_not_use_is_refused(loss: str, setting: str, value: float) -> None:
    with pytest.raises(ValidationError, match=f"{setting} has no effect on the loss {loss}"):
        of(loss, **{setting: value})


class SimPO(DPO):
    """DPO with SimPO's loss, as a class."""

    def __init__(self) -> None:
        super().__init__(DPOSettings(loss="simpo", gamma=0.5))


@pytest.mark.slow
def test_simpo_trains_and_resumes_without_a_reference(
    base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(*given: Any) -> Any:
        raise AssertionError("values of a reference were computed")

    monkeypatch.setattr(values, "_stored", computed)
    done = training.train(SimPO(), job(base, pairs, tmp_path / "whole"))
    [stage] = done.summary.stages
    assert stage.reference == "none"
    rows = [json.loads(line) for line in (tmp_path / "whole" / "train_log.jsonl").read_text().splitlines()]
    assert all(row["margin"] == pytest.approx(row["reward_chosen"] - row["reward_rejected"], abs=2e-6) for row in rows)
    # The loss is convex in the margin, so its mean is at least the loss of the mean margin (Jensen), and close to it.
    expected = sigmoid_loss(rows[0]["margin"] - 0.5)
    assert expected - 1e-6 <= rows[0]["loss"] < expected + 0.2
    with pytest.raises(KilledError):
        training.train(killed_at(SimPO, 3), job(base, pairs, tmp_path / "killed"))
    training.train(SimPO(), job(base, pairs, tmp_path / "killed", resume=True))
    expected_weights, found = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    for name, value in expected_weights.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
