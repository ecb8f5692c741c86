"""CHiP (Fu et al., ICLR 2025): image preference and three levels of text preference, response, segment and token, in one sigmoid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from aligners import losses
from aligners.base import BranchLogps, Logps, Loss, Needs
from aligners.corrections import CorrectedTokens
from aligners.rejected_images import (
    ImagePreferenceAligner,
    ImagePreferenceAlignerSettings,
    ImagePreferenceSettings,
)


class CHiPSettings(ImagePreferenceAlignerSettings):
    """CHiP's settings; defaults are those of its public code."""

    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")
    gamma: float = Field(4.0, gt=0, description="weight of a corrected token; the public scripts have 2 or 4")
    normalise: losses.Normalise = Field(
        "sum", description="a response's likelihood: sum over its tokens, or weighted mean"
    )
    beta_token: float = Field(
        0.1, ge=0, description="weight of the token-level divergence, which beta multiplies as well"
    )
    corrected: CorrectedTokens = CorrectedTokens()
    images: ImagePreferenceSettings = ImagePreferenceSettings(corruption="whole-noise")


class CHiP(ImagePreferenceAligner[CHiPSettings]):
    """Needs a forward pass of the reference in every step, because the token level uses its whole distribution."""

    name, summary, source = "chip", "cross-modal hierarchical DPO", "Fu et al. (CHiP), ICLR 2025"
    needs = Needs.CORRECTIONS | Needs.REFERENCE_DISTRIBUTION
    train_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 5e-7, "epochs": 3, "tuning": "full"}

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """See `losses.chip`."""
        divergence = {name: policy[name].divergence for name in ("chosen", "rejected")}
        assert divergence["chosen"] is not None and divergence["rejected"] is not None
        loss, terms = losses.chip(
            **{name: self._ratio(policy[name], reference[name]) for name in ("chosen", "rejected", "image_rejected")},
            divergence_chosen=divergence["chosen"].sum(-1),
            divergence_rejected=divergence["rejected"].sum(-1),
            beta=self.settings.beta,
            beta_token=self.settings.beta_token,
        )
        return Loss(loss, {name: value.detach() for name, value in terms.items()})

    def _ratio(self, policy: BranchLogps, reference: BranchLogps) -> losses.Tensor:
        assert policy.corrected is not None
        layout = (policy.mask, policy.corrected, self.settings.gamma, self.settings.normalise)
        return losses.corrected_likelihood(policy.tokens, *layout) - losses.corrected_likelihood(
            reference.tokens, *layout
        )
