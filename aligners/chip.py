"""CHiP (Fu et al., ICLR 2025): image preference and three levels of text preference, response, segment and token, in one sigmoid."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from aligners import losses
from aligners.base import (
    CHOSEN,
    IMAGE_REJECTED,
    REJECTED,
    Aligner,
    AlignerSettings,
    BranchLogps,
    Logps,
    Loss,
    PrepareContext,
)
from aligners.mfpo.image_preferences import ImagePreferenceSettings, generate
from harness.types import PreferenceExample


class CHiPSettings(AlignerSettings):
    """CHiP's settings."""

    beta: float = Field(0.5, gt=0)
    gamma: float = Field(5.0, gt=0, description="weight of a corrected token")
    beta_token: float = Field(0.1, ge=0, description="weight of the token-level divergence")
    images: ImagePreferenceSettings = ImagePreferenceSettings(corruption="whole-noise")


class CHiP(Aligner):
    """Pays for a live pass of the reference, whose whole distribution the token level needs."""

    name, summary, source = "chip", "cross-modal hierarchical DPO", "Fu et al. (CHiP), ICLR 2025"
    branches = (CHOSEN, REJECTED, IMAGE_REJECTED)
    needs = frozenset({"corrections", "reference_distribution"})
    Settings = CHiPSettings
    settings: CHiPSettings

    def prepare(self, examples: Sequence[PreferenceExample], context: PrepareContext) -> Sequence[PreferenceExample]:
        """A rejected image for every example that brings none: diffusion noise everywhere."""
        made, notes = generate(examples, self.settings.images, context)
        context.notes["image_preferences"] = notes
        return made

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
        layout = (policy.mask, policy.corrected, self.settings.gamma)
        return losses.corrected_mean(policy.tokens, *layout) - losses.corrected_mean(reference.tokens, *layout)
