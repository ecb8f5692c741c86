"""Checks of a method on made-up log-probabilities: what the trainer relies on, without a model.

The trainer divides a step into micro-batches by memory, sorts examples by length and pads responses, so a loss must not depend on an
example's neighbours, its place or its padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aligners.base import Aligner, BranchLogps, Logps, Needs
from aligners.contract import check_method as check_declared
from aligners.contract import loss_of, not_finite
from harness.core.plugins import wrong

if TYPE_CHECKING:
    from torch import Tensor

_EXAMPLES, _TOKENS = 6, 9
_NEAR = {"rtol": 1e-5, "atol": 1e-5}
_FAR = 2_000.0
"""A log-ratio in nats that long responses reach late in a training run with a high learning rate."""


def check_method(kind: type[Aligner], settings: Any = None) -> list[str]:
    """Check a method's loss: its shapes, finite gradients, and independence of neighbours, order and padding.

    Args:
        kind: the class.
        settings: an instance of its `Settings`; None: the defaults.

    Returns:
        What was checked, a sentence each.

    Raises:
        PluginError: a check failed; the message says what the loss returned and what was expected.
    """
    import torch

    aligner = kind(settings)
    check_declared(aligner)
    generator = torch.Generator().manual_seed(0)
    # Two random models stand for policy and reference; every example has a response of another length.
    lengths = torch.randint(2, _TOKENS + 1, (len(aligner.branches), _EXAMPLES), generator=generator)
    policy, reference = (_logps(aligner, lengths, generator) for _ in range(2))
    whole = _values(aligner, policy, reference)
    _check_gradients(aligner, policy, reference)
    order = torch.randperm(_EXAMPLES, generator=generator)
    shuffled = _values(aligner, _each(policy, order), _each(reference, order))
    _compare(aligner, {name: values[order] for name, values in whole.items()}, shuffled, "in another order")
    parts = [torch.arange(0, 1), torch.arange(1, _EXAMPLES)]
    split = [_values(aligner, _each(policy, part), _each(reference, part)) for part in parts]
    joined = {name: torch.cat([part[name] for part in split]) for name in whole}
    _compare(aligner, whole, joined, "in two batches")
    _compare(aligner, whole, _values(aligner, _padded(policy), _padded(reference)), "with more padding")
    _check_far(aligner, policy, reference)
    metrics = len(whole) - 1
    values = f"the loss and its {metrics} metrics have" if metrics else "the loss has"
    return [
        f"{values} one finite value per example",
        "the gradient is finite and not 0",
        "an example's values do not depend on its place, its neighbours or the padding",
        f"values and gradient are finite at log-ratios of {_FAR:,.0f} nats",
    ]


def _logps(aligner: Aligner, lengths: Tensor, generator: Any) -> dict[str, BranchLogps]:
    """Random log-probabilities of every branch, of tokens with probabilities from 5 % to 90 %."""
    import torch

    made = {}
    for branch, counts in zip(aligner.branches, lengths, strict=True):
        shape = (_EXAMPLES, _TOKENS)
        mask = torch.arange(_TOKENS) < counts[:, None]
        tokens = (torch.rand(shape, generator=generator) * 0.85 + 0.05).log() * mask
        corrected = (torch.rand(shape, generator=generator) < 0.4) & mask
        divergence = torch.rand(shape, generator=generator) * mask
        made[branch.name] = BranchLogps(
            tokens.sum(-1),
            tokens,
            mask,
            corrected if Needs.CORRECTIONS in aligner.needs else None,
            divergence if Needs.REFERENCE_DISTRIBUTION in aligner.needs else None,
            (torch.rand(shape, generator=generator) + 0.5) * mask if Needs.WEIGHTS in aligner.needs else None,
        )
    return made


def _each(logps: Logps, examples: Tensor) -> dict[str, BranchLogps]:
    """Some of the examples, in this order."""
    return _mapped(logps, lambda values: values[examples])


def _padded(logps: Logps) -> dict[str, BranchLogps]:
    """The same with two more places of padding."""
    import torch

    return _mapped(logps, lambda values: torch.nn.functional.pad(values, (0, 2)) if values.dim() == 2 else values)


def _mapped(logps: Logps, change: Any) -> dict[str, BranchLogps]:
    def changed(values: Tensor | None) -> Tensor | None:
        return None if values is None else change(values)

    return {
        name: BranchLogps(
            change(branch_logps.sums),
            change(branch_logps.tokens),
            change(branch_logps.mask),
            changed(branch_logps.corrected),
            changed(branch_logps.divergence),
            changed(branch_logps.weights),
        )
        for name, branch_logps in logps.items()
    }


def _values(aligner: Aligner, policy: Logps, reference: Logps) -> dict[str, Tensor]:
    """The loss and the metrics, finite, [batch]; "" is the loss."""
    ids = [f"example {number}" for number in range(len(next(iter(policy.values())).sums))]
    loss = loss_of(aligner, policy, reference if aligner.uses_reference else {}, ids)
    if bad := not_finite(loss.per_example, ids):
        raise wrong(aligner, "loss", f"{bad[1]} for {bad[0]}", "a finite number per example")
    return {"": loss.per_example.detach(), **{name: values.detach() for name, values in loss.metrics.items()}}


def _gradients(aligner: Aligner, policy: Logps, reference: Logps) -> dict[str, Tensor]:
    """Branch -> the gradient of the mean loss with respect to the policy's token log-probabilities, [batch, length]."""
    import torch

    leaves = {name: branch_logps.tokens.clone().requires_grad_() for name, branch_logps in policy.items()}
    divergences = {
        name: None if branch_logps.divergence is None else branch_logps.divergence.clone().requires_grad_()
        for name, branch_logps in policy.items()
    }
    held = {
        name: replace(branch_logps, sums=leaves[name].sum(-1), tokens=leaves[name], divergence=divergences[name])
        for name, branch_logps in policy.items()
    }
    ids = [f"example {number}" for number in range(_EXAMPLES)]
    loss = loss_of(aligner, held, reference if aligner.uses_reference else {}, ids)
    derivatives = torch.autograd.grad(loss.per_example.mean(), list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaves[name]) if gradient is None else gradient
        for name, gradient in zip(leaves, derivatives, strict=True)
    }


def _check_gradients(aligner: Aligner, policy: Logps, reference: Logps) -> None:
    gradients = _gradients(aligner, policy, reference)
    for name, gradient in gradients.items():
        if not bool(gradient.isfinite().all()):
            raise wrong(
                aligner, "loss", f"a gradient that is not finite in the branch '{name}'", "a finite gradient everywhere"
            )
    if not any(bool((gradient != 0).any()) for gradient in gradients.values()):
        raise wrong(
            aligner, "loss", "a gradient of 0 everywhere", "a loss that changes with the policy's log-probabilities"
        )


def _check_far(aligner: Aligner, policy: Logps, reference: Logps) -> None:
    """Values and gradients where the policy is far from the reference, in both directions."""
    import torch

    for sign in (1.0, -1.0):
        far = {}
        for number, (name, branch_logps) in enumerate(policy.items()):
            shift = torch.zeros_like(branch_logps.tokens)
            shift[:, 0] = sign * (_FAR if number else -_FAR)
            tokens = branch_logps.tokens + shift
            far[name] = replace(branch_logps, sums=tokens.sum(-1), tokens=tokens)
        _values(aligner, far, reference)
        for name, gradient in _gradients(aligner, far, reference).items():
            if not bool(gradient.isfinite().all()):
                raise wrong(
                    aligner,
                    "loss",
                    f"a gradient that is not finite in the branch '{name}' at a log-ratio of {_FAR:,.0f} nats",
                    "a finite gradient, for example by logsigmoid in place of log(sigmoid)",
                )


def _compare(aligner: Aligner, expected: Mapping[str, Tensor], others: Mapping[str, Tensor], how: str) -> None:
    """Make sure that examples have the same values in another arrangement."""
    import torch

    for name, values in expected.items():
        if not torch.allclose(values, others[name], **_NEAR):
            worst = int((values - others[name]).abs().argmax())
            what = f"the metric '{name}'" if name else "the loss"
            raise wrong(
                aligner,
                "loss",
                f"{float(others[name][worst]):.6g} as {what} of an example that has {float(values[worst]):.6g}, {how}",
                "values that depend on the example alone: the trainer divides and sorts batches",
            )
