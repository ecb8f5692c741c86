"""LPOI (Pesaran Zadeh et al., ACL 2025): DPO, an anchor, and a ranking of pictures in which ever more of the key object is covered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator

from aligners import losses
from aligners.base import CHOSEN, REJECTED, Aligner, AlignerSettings, Branch, Logps, Loss, PrepareContext, image_list
from aligners.rejected_images import ImagePreferenceSettings, generate
from aligners.rejected_images.settings import checked_levels
from harness.core.types import PreferenceExample

LEVELS = (0.25, 0.5, 0.75, 1.0)
"""With the original, the list of five pictures of the public code."""


class LPOISettings(AlignerSettings):
    """LPOI's settings; defaults are those of its public code."""

    lambda_text: float = Field(1.0, ge=0, description="weight of DPO's term")
    lambda_list: float = Field(1.0, ge=0, description="weight of the ranking of the images")
    lambda_margin: float = Field(1.0, ge=0, description="weight of the anchor")
    levels: tuple[float, ...] = Field(
        LEVELS,
        description="strengths of the rejected images, rising, as shares of the corruption's own; each is one more image in the ranking",
    )
    images: ImagePreferenceSettings = ImagePreferenceSettings(corruption="cover", top_k=1)

    @field_validator("levels")
    @classmethod
    def _rise(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        return checked_levels(levels)


class LPOI(Aligner[LPOISettings]):
    """The preferred response should be the more likely, the more of the picture is left: original, rejected_1, rejected_2, ...

    The forward passes grow with the list: one row per image, with both responses in the original's.
    """

    name, summary = "lpoi", "listwise preferences over images: DPO + anchor + a ranking of pictures by what is covered"
    source = "Pesaran Zadeh et al. (LPOI), ACL 2025, arXiv 2505.21061"
    branches: tuple[Branch, ...] = (CHOSEN, REJECTED, *image_list(len(LEVELS)))
    ours = (
        "the covered regions are those of the answer's first keyword, black, without a red circle around them, and no second model checks "
        "that the answer is wrong without them"
    )
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 5e-6,
        "epochs": 3,
        "batch_size": 64,
        "warmup_ratio": 0.0,
        "schedule": "linear",
        "lora": {"rank": 8, "alpha": 8},
    }

    def __init__(self, settings: LPOISettings | None = None) -> None:
        super().__init__(settings)
        self.branches = (CHOSEN, REJECTED, *image_list(len(self.settings.levels)))

    def prepare(self, examples: Sequence[PreferenceExample], context: PrepareContext) -> Sequence[PreferenceExample]:
        """Make a list of rejected images for every example without one; the manifest records how they were made."""
        made, notes = generate(examples, self.settings.images, context, self.settings.levels)
        context.notes["image_preferences"] = notes.written()
        return made

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """See `losses.lpoi`."""
        ratio = {branch.name: policy[branch.name].sums - reference[branch.name].sums for branch in self.branches}
        settings = self.settings
        loss, terms = losses.lpoi(
            ratio["chosen"],
            ratio["rejected"],
            [ratio[branch.name] for branch in image_list(len(settings.levels))],
            beta=settings.beta,
            lambda_text=settings.lambda_text,
            lambda_list=settings.lambda_list,
            lambda_margin=settings.lambda_margin,
        )
        return Loss(loss, {name: value.detach() for name, value in terms.items()})
