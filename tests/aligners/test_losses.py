"""Losses against independent float64 implementations written from the formulas, in loss and gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from aligners.base import Aligner, BranchLogps
from aligners.chip import CHiP, CHiPSettings
from aligners.dpo import DPO, DPOSettings
from aligners.mdpo import MDPO, MDPOSettings
from aligners.mfpo import MFPO, MFPOSettings
from aligners.rlhfv import RLHFV, RLHFVSettings
from aligners.symmpo import SymMPO, SymMPOSettings
from harness.core.config import TrainSettings, merged

TOLERANCE = {"atol": 1e-6, "rtol": 1e-6}


def branch(batch: int, length: int, seed: int, *, grad: bool) -> BranchLogps:
    """Random log-probabilities of responses of different lengths."""
    rng = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, length + 1, (batch,), generator=rng)
    mask = torch.arange(length)[None] < sizes[:, None]
    values = -torch.rand(batch, length, generator=rng, dtype=torch.float64) * 3
    tokens = torch.where(mask, values, 0.0).requires_grad_(grad)
    corrected = (torch.rand(batch, length, generator=rng) < 0.4) & mask
    return BranchLogps(tokens.sum(-1), tokens, mask, corrected)


def both(names: tuple[str, ...]) -> tuple[dict[str, BranchLogps], dict[str, BranchLogps]]:
    """Policy (with gradient) and reference of the same layout."""
    policy, reference = {}, {}
    for number, name in enumerate(names):
        policy[name] = branch(5, 7, number, grad=True)
        other = branch(5, 7, 100 + number, grad=False)
        tokens = torch.where(policy[name].mask, other.tokens - 0.5, 0.0)
        reference[name] = BranchLogps(tokens.sum(-1), tokens, policy[name].mask, policy[name].corrected)
    return policy, reference


def sigmoid_loss(value: float) -> float:
    return math.log1p(math.exp(-value)) if value > -30 else -value


def gradients(loss: torch.Tensor, policy: dict[str, BranchLogps]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss.sum(), [one.tokens for one in policy.values()]))


def ratios(policy: dict[str, BranchLogps], reference: dict[str, BranchLogps], row: int) -> dict[str, float]:
    """Sum of log-ratios, token by token, in Python."""
    return {
        name: sum(
            float(branch.tokens[row, k] - reference[name].tokens[row, k])
            for k in range(branch.mask.shape[1])
            if branch.mask[row, k]
        )
        for name, branch in policy.items()
    }


@pytest.mark.claims("dpo.beta")
def test_dpo() -> None:
    policy, reference = both(("chosen", "rejected"))
    loss = DPO(DPOSettings(beta=0.3)).loss(policy, reference).per_example
    for row in range(5):
        r = ratios(policy, reference, row)
        assert float(loss[row]) == pytest.approx(sigmoid_loss(0.3 * (r["chosen"] - r["rejected"])), abs=1e-6)
    chosen, rejected = gradients(loss, policy)
    for row in range(5):
        r = ratios(policy, reference, row)
        slope = 0.3 / (1 + math.exp(0.3 * (r["chosen"] - r["rejected"])))
        torch.testing.assert_close(chosen[row], torch.full_like(chosen[row], -slope), **TOLERANCE)
        torch.testing.assert_close(rejected[row], torch.full_like(rejected[row], slope), **TOLERANCE)


@pytest.mark.claims("dpo.label_smoothing")
def test_label_smoothing_is_the_mixture_of_both_orders() -> None:
    policy, reference = both(("chosen", "rejected"))
    swapped = [{"chosen": one["rejected"], "rejected": one["chosen"]} for one in (policy, reference)]
    plain, flipped = DPO().loss(policy, reference).per_example, DPO().loss(*swapped).per_example
    smooth = DPO(DPOSettings(label_smoothing=0.2)).loss(policy, reference).per_example
    torch.testing.assert_close(smooth, 0.8 * plain + 0.2 * flipped, **TOLERANCE)


@pytest.mark.claims("dpo.per_token", "dpo.length_penalty")
def test_dpo_by_length() -> None:
    policy, reference = both(("chosen", "rejected"))
    aligner = DPO(DPOSettings(beta=0.3, per_token=True, length_penalty=0.05))
    loss = aligner.loss(policy, reference).per_example
    for row in range(5):
        r = ratios(policy, reference, row)
        long, short = (int(policy[name].mask[row].sum()) for name in ("chosen", "rejected"))
        expected = sigmoid_loss(0.3 * (r["chosen"] / long - r["rejected"] / short) + 0.05 * (long - short))
        assert float(loss[row]) == pytest.approx(expected, abs=1e-6)
    slopes_agree(aligner, policy, reference)


@pytest.mark.claims("mfpo.label_smoothing", "mdpo.label_smoothing")
@pytest.mark.parametrize("kind", [MFPO, MDPO])
def test_smoothing_flips_the_text_term_only(kind: type[Aligner]) -> None:
    policy, reference = both(("chosen", "rejected", "image_rejected"))
    plain, smooth = (
        kind(kind.Settings.model_validate({"beta": 0.3, "label_smoothing": share})).loss(policy, reference).per_example
        for share in (0.0, 0.25)
    )
    for row in range(5):  # -log sigma(-x) = x - log sigma(x): a quarter of the text term's margin is added
        r = ratios(policy, reference, row)
        assert float(smooth[row] - plain[row]) == pytest.approx(0.25 * 0.3 * (r["chosen"] - r["rejected"]), abs=1e-6)


@pytest.mark.claims("rlhfv.label_smoothing")
def test_smoothing_of_rlhfv_is_the_mixture_of_both_orders() -> None:
    policy, reference = both(("chosen", "rejected"))
    swapped = [{"chosen": one["rejected"], "rejected": one["chosen"]} for one in (policy, reference)]
    plain, flipped = RLHFV().loss(policy, reference).per_example, RLHFV().loss(*swapped).per_example
    smooth = RLHFV(RLHFVSettings(label_smoothing=0.2)).loss(policy, reference).per_example
    torch.testing.assert_close(smooth, 0.8 * plain + 0.2 * flipped, **TOLERANCE)


@pytest.mark.claims("rlhfv.beta", "rlhfv.gamma", "rlhfv.normalise")
@pytest.mark.parametrize("normalise", ["mean", "sum"])
def test_rlhfv(normalise: Any) -> None:
    gamma, beta = 4.0, 0.3
    policy, reference = both(("chosen", "rejected"))
    loss = RLHFV(RLHFVSettings(beta=beta, gamma=gamma, normalise=normalise)).loss(policy, reference).per_example

    def likelihood(tokens: torch.Tensor, branch: BranchLogps, row: int) -> float:
        above = below = 0.0
        for k in range(tokens.shape[1]):
            if branch.mask[row, k]:
                weight = gamma if branch.corrected is not None and branch.corrected[row, k] else 1.0
                above, below = above + weight * float(tokens[row, k]), below + weight
        return above / below if normalise == "mean" else above

    for row in range(5):
        r = {
            name: likelihood(branch.tokens, branch, row) - likelihood(reference[name].tokens, branch, row)
            for name, branch in policy.items()
        }
        assert float(loss[row]) == pytest.approx(sigmoid_loss(beta * (r["chosen"] - r["rejected"])), abs=1e-6)
    chosen = policy["chosen"]
    computed = gradients(loss, policy)[0]
    assert chosen.corrected is not None
    row = next(i for i in range(5) if chosen.corrected[i].any() and (chosen.mask[i] & ~chosen.corrected[i]).any())
    marked, plain = computed[row][chosen.corrected[row]][0], computed[row][chosen.mask[row] & ~chosen.corrected[row]][0]
    assert float(marked / plain) == pytest.approx(gamma, rel=1e-9)


@pytest.mark.claims("mfpo.beta", "mfpo.lambda_text", "mfpo.lambda_image", "mfpo.lambda_margin", "mfpo.delta")
def test_mfpo() -> None:
    beta, text, image, margin, delta = 0.2, 1.3, 0.7, 1.5, 0.4
    policy, reference = both(("chosen", "rejected", "image_rejected"))
    settings = MFPOSettings(beta=beta, lambda_text=text, lambda_image=image, lambda_margin=margin, delta=delta)
    result = MFPO(settings).loss(policy, reference)
    for row in range(5):
        r = {name: beta * value for name, value in ratios(policy, reference, row).items()}
        expected = (
            text * sigmoid_loss(r["chosen"] - r["rejected"])
            + image * sigmoid_loss(r["chosen"] - r["image_rejected"])
            + margin * sigmoid_loss(r["chosen"] - delta)
        )
        assert float(result.per_example[row]) == pytest.approx(expected, abs=1e-6)
    chosen, rejected, noisy = gradients(result.per_example, policy)
    for row in range(5):
        r = {name: beta * value for name, value in ratios(policy, reference, row).items()}
        slopes = [
            text * beta / (1 + math.exp(r["chosen"] - r["rejected"])),
            image * beta / (1 + math.exp(r["chosen"] - r["image_rejected"])),
            margin * beta / (1 + math.exp(r["chosen"] - delta)),
        ]
        torch.testing.assert_close(chosen[row], torch.full_like(chosen[row], -sum(slopes)), **TOLERANCE)
        torch.testing.assert_close(rejected[row], torch.full_like(rejected[row], slopes[0]), **TOLERANCE)
        torch.testing.assert_close(noisy[row], torch.full_like(noisy[row], slopes[1]), **TOLERANCE)


def slopes_agree(aligner: Aligner, policy: dict[str, BranchLogps], reference: dict[str, BranchLogps]) -> None:
    """The gradient against central differences, at some tokens of every branch."""
    found = gradients(aligner.loss(policy, reference).per_example, policy)
    step = 1e-5
    for (name, branch), gradient in zip(policy.items(), found, strict=True):
        for row, place in ((0, 0), (3, int(branch.mask[3].sum()) - 1)):
            values = []
            for sign in (1, -1):
                tokens = branch.tokens.detach().clone()
                tokens[row, place] += sign * step
                moved = BranchLogps(tokens.sum(-1), tokens, branch.mask, branch.corrected, branch.divergence)
                values.append(float(aligner.loss({**policy, name: moved}, reference).per_example.sum()))
            assert float(gradient[row, place]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-6)


@pytest.mark.claims("mdpo.beta", "mdpo.delta")
def test_mdpo() -> None:
    policy, reference = both(("chosen", "rejected", "image_rejected"))
    aligner = MDPO(MDPOSettings(beta=0.2, delta=0.3))
    loss = aligner.loss(policy, reference).per_example
    for row in range(5):
        r = {name: 0.2 * value for name, value in ratios(policy, reference, row).items()}
        expected = (
            sigmoid_loss(r["chosen"] - r["rejected"])
            + sigmoid_loss(r["chosen"] - r["image_rejected"])
            + sigmoid_loss(r["chosen"] - 0.3)
        )
        assert float(loss[row]) == pytest.approx(expected, abs=1e-6)
    slopes_agree(aligner, policy, reference)


@pytest.mark.claims("symmpo.beta", "symmpo.lambda_pair", "symmpo.lambda_consistency")
def test_symmpo() -> None:
    beta, pair, consistency = 0.3, 0.6, 0.02
    policy, reference = both(tuple(branch.name for branch in SymMPO.branches))
    aligner = SymMPO(SymMPOSettings(beta=beta, lambda_pair=pair, lambda_consistency=consistency))
    loss = aligner.loss(policy, reference).per_example
    for row in range(5):
        a = ratios(policy, reference, row)
        first, second = a["chosen"] - a["cross_response"], a["second"] - a["cross_image"]
        expected = (
            sigmoid_loss(beta * (a["chosen"] - a["rejected"]))
            + pair * (sigmoid_loss(beta * first) + sigmoid_loss(beta * second))
            + sigmoid_loss(beta * a["chosen"])
            + sigmoid_loss(beta * a["second"])
            + consistency * (first - second) ** 2
        )
        assert float(loss[row]) == pytest.approx(expected, abs=1e-6)
    slopes_agree(aligner, policy, reference)


@pytest.mark.claims("chip.beta", "chip.gamma", "chip.beta_token", "chip.normalise")
@pytest.mark.parametrize("normalise", ["mean", "sum"])
def test_chip(normalise: Any) -> None:
    beta, gamma, token = 0.4, 3.0, 0.7
    policy, reference = both(("chosen", "rejected", "image_rejected"))
    divergence = {name: torch.rand(5, 7, dtype=torch.float64) * branch.mask for name, branch in policy.items()}
    policy = {
        name: BranchLogps(branch.sums, branch.tokens, branch.mask, branch.corrected, divergence[name].requires_grad_())
        for name, branch in policy.items()
    }
    aligner = CHiP(CHiPSettings(beta=beta, gamma=gamma, beta_token=token, normalise=normalise))
    loss = aligner.loss(policy, reference).per_example

    def weighted(name: str, row: int) -> float:
        branch, above, below = policy[name], 0.0, 0.0
        for k in range(7):
            if branch.mask[row, k]:
                weight = gamma if branch.corrected is not None and branch.corrected[row, k] else 1.0
                above += weight * float(branch.tokens[row, k] - reference[name].tokens[row, k])
                below += weight
        return above / below if normalise == "mean" else above

    for row in range(5):
        a = {name: weighted(name, row) for name in policy}
        kl = {name: float(value[row].sum()) for name, value in divergence.items()}
        text_and_image = 2 * a["chosen"] - a["rejected"] - a["image_rejected"]
        logit = beta * (text_and_image + token * (kl["chosen"] - kl["rejected"]))
        assert float(loss[row]) == pytest.approx(sigmoid_loss(logit), abs=1e-6)
    slopes_agree(aligner, policy, reference)
    chosen, rejected = torch.autograd.grad(
        aligner.loss(policy, reference).per_example.sum(),
        [divergence["chosen"], divergence["rejected"]],
        allow_unused=True,
    )
    assert chosen is None, "the preferred response's divergence is a constant of the loss"
    assert bool((rejected >= 0).all()) and float(rejected.max()) > 0


@pytest.mark.parametrize(
    ("aligner", "expected"),
    [(DPO(), 1), (RLHFV(), 1), (MFPO(), 3), (MDPO(), 3), (SymMPO(), 4)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_at_the_start_every_reward_is_zero(aligner: DPO, expected: int) -> None:
    policy, _ = both(tuple(one.name for one in aligner.branches))
    loss = aligner.loss(policy, policy).per_example
    torch.testing.assert_close(loss, torch.full_like(loss, expected * math.log(2)), **TOLERANCE)


def test_defaults_are_those_of_the_public_code_or_of_the_paper() -> None:
    """docs/methods.md lists the sources; a default that is changed is changed there, too."""
    chip, rlhfv, symmpo = CHiPSettings(), RLHFVSettings(), SymMPOSettings()
    assert (chip.beta, chip.beta_token, chip.normalise) == (0.1, 0.1, "sum")
    assert (chip.images.corruption, chip.images.step, chip.images.schedule, chip.images.scale) == (
        "whole-noise",
        500,
        "vcd",
        "clip",
    )
    assert dict(CHiP.train_defaults) == {"learning_rate": 5e-7, "epochs": 3, "tuning": "full"}
    assert (rlhfv.beta, rlhfv.gamma, rlhfv.normalise) == (0.5, 5.0, "mean")
    assert (symmpo.lambda_pair, symmpo.beta, symmpo.lambda_consistency) == (0.5, 0.1, 1e-4)
    mdpo = merged({"train": dict(MDPO.train_defaults)})["train"]
    train = TrainSettings.model_validate(mdpo)
    assert (train.weight_decay, train.adam_beta2, train.lora.dropout) == (0.05, 0.98, 0.05)
