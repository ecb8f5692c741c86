"""MFPO (Jiang et al., IJCAI 2025): the method itself; its parts are beside it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from aligners import losses
from aligners.base import Logps, Loss, Stage, StageContext
from aligners.mfpo.image_preferences import ImagePreferenceAligner, ImagePreferenceAlignerSettings
from aligners.mfpo.stages import StageSettings, split_by_difficulty
from harness.types import PreferenceExample


class MFPOSettings(ImagePreferenceAlignerSettings):
    """MFPO's settings: weights of the terms, the image preferences, the stages."""

    lambda_text: float = Field(1.0, ge=0, description="weight of the text term")
    lambda_image: float = Field(1.0, ge=0, description="weight of the image term")
    lambda_margin: float = Field(1.0, ge=0, description="weight of the margin term")
    delta: float = Field(0.0, description="reward that the preferred pair should keep")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="of the text term, as in DPO")
    stages: StageSettings = StageSettings()


class MFPO(ImagePreferenceAligner):
    """Text and image preferences count alike; easy examples come first."""

    name, summary, source = (
        "mfpo",
        "modality-fair preference optimisation",
        "Jiang et al., IJCAI 2025 (arXiv 2410.15334)",
    )
    default_data = "rlhf-v"
    ours = (
        "the paper gives the method, not its constants: those of the keyword graph, the detector, the noise's schedule "
        "(inferred) and scale, the sizes of the stages, beta, learning rate and LoRA are this tool's choices (docs/mfpo.md)"
    )
    Settings = MFPOSettings
    settings: MFPOSettings

    def stages(self, examples: Sequence[PreferenceExample], context: StageContext) -> list[Stage]:
        """Section 3.3: easy to hard, by the entropy that the starting model has on an answer."""
        stages = self.settings.stages
        difficulty = context.difficulty(examples, stages.measure, stages.answer, stages.max_new_tokens)
        return split_by_difficulty(examples, difficulty, stages)

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """Part 2: see `losses.image_preference`."""
        ratio = {name: policy[name].sums - reference[name].sums for name in ("chosen", "rejected", "image_rejected")}
        settings = self.settings
        loss, terms = losses.image_preference(
            **ratio,
            beta=settings.beta,
            lambda_text=settings.lambda_text,
            lambda_image=settings.lambda_image,
            lambda_margin=settings.lambda_margin,
            delta=settings.delta,
            label_smoothing=settings.label_smoothing,
        )
        return Loss(loss, {name: value.detach() for name, value in terms.items()})
