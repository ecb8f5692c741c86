"""RLHF-V's dense DPO (Yu et al., CVPR 2024): corrected segments weigh more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from aligners import losses
from aligners.base import Aligner, AlignerSettings, BranchLogps, Logps, Loss, Needs
from aligners.corrections import CorrectedTokens


class RLHFVSettings(AlignerSettings):
    """RLHF-V's settings; defaults are the paper's."""

    beta: float = Field(0.5, gt=0, description="strength of the pull towards the reference")
    gamma: float = Field(5.0, gt=0, description="weight of a corrected token")
    normalise: losses.Normalise = Field(
        "mean",
        description="a response's likelihood: weighted mean (the paper's) or sum over its tokens (later public trainers')",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="probability that a preference is reversed, as in DPO"
    )
    corrected: CorrectedTokens = CorrectedTokens()


class RLHFV(Aligner[RLHFVSettings]):
    """DPO on the weighted mean, or sum, of token log-probabilities."""

    name, summary, source = (
        "rlhfv",
        "dense DPO: corrected segments have a higher weight",
        "Yu et al. (RLHF-V), CVPR 2024",
    )
    needs = Needs.CORRECTIONS
    train_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 5e-7, "epochs": 7, "tuning": "full"}

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """`losses.dpo` of the responses' weighted likelihoods (`losses.corrected_likelihood`)."""

        def ratio(name: str) -> losses.Tensor:
            return self._likelihood(policy[name], policy[name]) - self._likelihood(reference[name], policy[name])

        settings = self.settings
        return Loss(losses.dpo(ratio("chosen"), ratio("rejected"), settings.beta, settings.label_smoothing))

    def _likelihood(self, logps: BranchLogps, layout: BranchLogps) -> losses.Tensor:
        assert layout.corrected is not None
        settings = self.settings
        return losses.corrected_likelihood(
            logps.tokens, layout.mask, layout.corrected, settings.gamma, settings.normalise
        )
