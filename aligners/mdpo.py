"""mDPO (Wang et al., EMNLP 2024): DPO, the same response given a cropped image, and an anchor for the preferred response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from aligners import losses
from aligners.base import Logps, Loss
from aligners.rejected_images import (
    ImagePreferenceAligner,
    ImagePreferenceAlignerSettings,
    ImagePreferenceSettings,
)


class MDPOSettings(ImagePreferenceAlignerSettings):
    """mDPO's settings; defaults are the paper's."""

    delta: float = Field(0.0, description="reward that the preferred pair should keep")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="label smoothing of the text term")
    images: ImagePreferenceSettings = ImagePreferenceSettings(corruption="crop")


class MDPO(ImagePreferenceAligner[MDPOSettings]):
    """MFPO's three terms with equal weights, on random crops instead of key regions and in one stage.

    Differences: an example has one crop, stored with its set; the public code draws a new one every epoch.
    """

    name, summary, source = "mdpo", "DPO + conditional (image) preference + anchor", "Wang et al. (mDPO), EMNLP 2024"
    ours = "each example keeps one crop; the public code draws a new one every epoch"
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-5,
        "epochs": 3,
        "weight_decay": 0.05,
        "adam_beta2": 0.98,
        "lora": {"rank": 64, "alpha": 128, "dropout": 0.05},
    }

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """See `losses.image_preference`, with weights of 1."""
        ratio = {name: policy[name].sums - reference[name].sums for name in ("chosen", "rejected", "image_rejected")}
        loss, terms = losses.image_preference(
            **ratio,
            beta=self.settings.beta,
            lambda_image=1.0,
            lambda_margin=1.0,
            delta=self.settings.delta,
            label_smoothing=self.settings.label_smoothing,
        )
        return Loss(loss, {name: value.detach() for name, value in terms.items()})
