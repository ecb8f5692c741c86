"""DPO (Rafailov et al., NeurIPS 2023)."""

from __future__ import annotations

from pydantic import Field

from aligners import losses
from aligners.base import Aligner, AlignerSettings, Logps, Loss


class DPOSettings(AlignerSettings):
    """DPO's settings."""

    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="probability that a preference is the wrong way round"
    )


class DPO(Aligner):
    """Compares the two responses to the original image."""

    name, summary, source = "dpo", "direct preference optimisation", "Rafailov et al., NeurIPS 2023"
    Settings = DPOSettings
    settings: DPOSettings

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """See `losses.dpo`."""
        ratio = {name: policy[name].sums - reference[name].sums for name in ("chosen", "rejected")}
        return Loss(losses.dpo(ratio["chosen"], ratio["rejected"], self.settings.beta, self.settings.label_smoothing))
