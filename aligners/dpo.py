"""DPO (Rafailov et al., NeurIPS 2023)."""

from __future__ import annotations

from pydantic import Field

from aligners import losses
from aligners.base import Aligner, AlignerSettings, Logps, Loss


class DPOSettings(AlignerSettings):
    """DPO's settings."""

    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="label smoothing: probability that a preference is reversed"
    )
    per_token: bool = Field(
        False, description="mean log-ratio over a response's tokens, not their sum (length-normalised DPO)"
    )
    length_penalty: float = Field(0.0, ge=0, description="reward subtracted per token of a response (R-DPO's alpha)")


class DPO(Aligner[DPOSettings]):
    """Compares the two responses to the original image."""

    name, summary, source = "dpo", "direct preference optimisation", "Rafailov et al., NeurIPS 2023"

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """See `losses.dpo`."""
        lengths = {name: policy[name].mask.sum(-1) for name in ("chosen", "rejected")}
        ratio = {
            name: (policy[name].sums - reference[name].sums) / (length if self.settings.per_token else 1)
            for name, length in lengths.items()
        }
        settings = self.settings
        penalty = settings.length_penalty * (lengths["chosen"] - lengths["rejected"])
        return Loss(losses.dpo(**ratio, beta=settings.beta, label_smoothing=settings.label_smoothing, extra=penalty))
