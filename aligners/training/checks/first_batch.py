"""The canary's second part: before the first update policy and reference are one model.

So every reward must be 0, and every term of the loss must equal its formula's value for rewards of 0.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aligners.base import BranchLogps, Logps, Loss
from aligners.contract import loss_of
from aligners.training.checks.canary import LEAVE, Way, mend, tolerance, trained_logps
from aligners.training.layout import Batch
from aligners.training.policy import token_logp
from harness.core.errors import HarnessError
from harness.core.plugins import wrong
from harness.records.training_files import FirstBatchRecord

if TYPE_CHECKING:
    from torch import Tensor

    from aligners.training.session import Session


def check_first_batch(run: Session, batch: Batch, policy: Logps, reference: Logps, loss: Loss) -> FirstBatchRecord:
    """Check before the first update that rewards are 0, and that the loss's terms equal the method's formula for rewards of 0.

    Args:
        run: the training, whose policy is still the reference.
        batch: the first one.
        policy: log-probabilities of the policy.
        reference: log-probabilities of the reference.
        loss: the method's loss for the two.

    Returns:
        The largest reward.

    Raises:
        HarnessError: policy and reference differ by more than rounding, or a term differs by more than that explains.
    """
    beta, rewards = run.aligner.settings.beta, 0.0
    for name, branch in policy.items():
        for row, example in enumerate(batch.ids):
            off = float((branch.sums[row] - reference[name].sums[row]).detach().abs())
            allowed = _allowed(run, branch.mask)[row].item()
            rewards = max(rewards, beta * off)
            if not off <= allowed:
                raise HarnessError(
                    f"canary: before the first update policy and reference are one model, and the reward of branch '{name}' is "
                    f"{beta * off:.3g} instead of 0 (rounding explains {beta * allowed:.2g})",
                    where=f"example {example}",
                    remedy=f"{_mend_first(run, batch, reference)}; {LEAVE}",
                )
    _terms_are_the_formulas(run, batch, policy, reference, loss)
    return FirstBatchRecord(reward=rewards)


def _allowed(run: Session, mask: Tensor) -> Tensor:
    """Allowed difference of the sum over each response's tokens, [batch]; it grows with the square root of their number."""
    return 2 * tolerance(run) * mask.sum(-1).clamp(min=1).sqrt()


def _terms_are_the_formulas(run: Session, batch: Batch, policy: Logps, reference: Logps, loss: Loss) -> None:
    """Compare every term with the method's formula at rewards of 0, within the change that allowed differences cause."""
    import torch

    aligner = copy.deepcopy(run.aligner)  # a method may have state

    def terms(signs: Sequence[int]) -> dict[str, Tensor]:
        shifted = {
            name: _shifted(branch, sign * _allowed(run, branch.mask), policy[name])
            for sign, (name, branch) in zip(signs, reference.items(), strict=True)
        }
        shifted_loss = loss_of(aligner, shifted, reference, batch.ids)
        if shifted_loss.metrics.keys() != loss.metrics.keys():
            got = f"the metrics {', '.join(shifted_loss.metrics) or 'of none'} and, before, {', '.join(loss.metrics) or 'none'}"
            raise wrong(aligner, "loss", got, "the same names at every call")
        return {"loss": shifted_loss.per_example.detach(), **shifted_loss.metrics}

    expected = terms([0] * len(reference))
    corners = [terms(signs) for signs in itertools.product((-1, 1), repeat=len(reference))]
    for name, seen in {"loss": loss.per_example.detach(), **loss.metrics}.items():
        reach = torch.stack([(corner[name] - expected[name]).abs() for corner in corners]).amax(0)
        off = (seen - expected[name]).abs()
        bad = ~(off <= 1e-5 * (1 + expected[name].abs()) + reach)
        if bad.any():
            row = int(bad.nonzero()[0])
            raise HarnessError(
                f"canary: before the first update '{name}' is {float(seen[row]):.6g}, but the formula of '{run.aligner.name}' gives "
                f"{float(expected[name][row]):.6g} for rewards of 0 (rounding explains {float(reach[row]):.2g})",
                where=f"example {batch.ids[row]}",
                remedy=f"rewards are 0, so check the method's loss; {LEAVE}",
            )


def _shifted(branch: BranchLogps, sums: Tensor, policy: BranchLogps) -> BranchLogps:
    """A branch whose sums are increased by `sums`, equally distributed over its tokens, with what only the policy's branch has."""
    step = (sums / branch.mask.sum(-1).clamp(min=1))[:, None] * branch.mask
    tokens = branch.tokens + step
    divergence = None if policy.divergence is None else step.clamp(min=0)
    return BranchLogps(tokens.sum(-1), tokens, branch.mask, branch.corrected, divergence, policy.weights)


def _mend_first(run: Session, batch: Batch, reference: Logps) -> str:
    """`canary.mend` for the first batch; besides other ways of computing, it tries newly computed values of the reference."""
    encoded = [run.encoded[name] for name in batch.ids]

    def passes(way: Way, afresh: bool = False) -> bool:
        trained, expected = trained_logps(run, encoded, way), now() if afresh else reference
        return all(
            float((values[name].sum() - branch.sums[row].cpu()).abs()) <= float(_allowed(run, branch.mask)[row])
            for row, values in enumerate(trained)
            for name, branch in expected.items()
        )

    def now() -> Logps:
        run.policy.model.eval()
        rows = run.values(encoded, run.branches, token_logp, "now")
        return {
            name: replace(
                logps, sums=logps.sums.new_tensor([float(row[branch.image, branch.response].sum()) for row in rows])
            )
            for branch, (name, logps) in zip(run.branches, reference.items(), strict=True)
        }

    way = Way(run.policy.savings, run.train_settings.workers)
    if run.process.num_processes == 1 and run.train_settings.savings.reference_cache and passes(way, afresh=True):
        return (
            "--set train.savings.reference_cache=false makes it pass: the values in the cache belong to another model"
        )
    return mend(run, way, passes)
