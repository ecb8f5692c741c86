"""How rejected images are made: what a user can set."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from aligners.mfpo.image_preferences.corruptions import CORRUPTIONS, STEPS, Corruption
from harness.config import StrictModel
from harness.errors import UnknownNameError

_SPEED_ONLY = {"batch_size"}


class ImagePreferenceSettings(StrictModel):
    """How the rejected images are made."""

    top_k: int = Field(5, ge=1, le=32, description="keywords an example")
    regions: str = Field(
        "auto",
        description="where regions come from: dataset, grounding-dino+sam, owlv2+sam, grounding-dino, owlv2, sam3; auto: the data "
        "set's boxes if every example has them, else grounding-dino+sam",
    )
    corruption: str = Field("noise", description=", ".join(CORRUPTIONS))
    step: int = Field(500, ge=1, le=STEPS, description="diffusion step t, for noise and whole-noise")
    strength: float | None = Field(
        None, gt=0, le=1, description="of the other corruptions; None: each one's usual strength"
    )
    on_nothing: Literal["whole-image", "drop"] = Field(
        "whole-image",
        description="what to do when no keyword is found: corrupt the whole image, or leave the example out",
    )
    pipeline: str = Field("blank", description="spaCy pipeline for noun phrases; 'blank' needs no download")
    detector: str | None = Field(None, description="folder or hub id of the detector; None: the usual one of `regions`")
    segmenter: str | None = Field(None, description="folder or hub id of the segmenter; None: facebook/sam-vit-base")
    box_threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="least score of a box; None: the detector's usual one (0.35, OWLv2 0.2, SAM 3 0.5)",
    )
    text_threshold: float = Field(0.25, gt=0, lt=1, description="least score of a box's words, for Grounding DINO")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of detector and segmenter; auto: bfloat16 on a GPU where the model allows it, else float32"
    )
    batch_size: int = Field(8, ge=1, description="images a forward pass of detector and segmenter")

    @field_validator("corruption")
    @classmethod
    def _known_corruption(cls, name: str) -> str:
        if name not in CORRUPTIONS:
            raise ValueError(UnknownNameError("corruption", name, CORRUPTIONS).problem)
        return name

    @field_validator("regions")
    @classmethod
    def _known_regions(cls, name: str) -> str:
        from aligners.mfpo.image_preferences.regions import REGION_SOURCES

        if name != "auto" and name not in REGION_SOURCES:
            raise ValueError(UnknownNameError("region source", name, ["auto", *REGION_SOURCES]).problem)
        return name

    @model_validator(mode="after")
    def _one_strength(self) -> ImagePreferenceSettings:
        if self.strength is not None and self.how.stepped:
            raise ValueError(f"the corruption '{self.corruption}' takes its strength from 'step'")
        return self

    @property
    def how(self) -> Corruption:
        """The corruption that is named."""
        return CORRUPTIONS[self.corruption]

    @property
    def amount(self) -> float:
        """The strength that the corruption is called with."""
        if self.how.stepped:
            return self.step / STEPS
        return self.how.strength if self.strength is None else self.strength

    @property
    def t(self) -> int | None:
        """The diffusion step, where there is one."""
        return self.step if self.how.stepped else None

    def described(self) -> str:
        """The corruption in words."""
        return f"{self.how.summary}, " + (f"t = {self.step}" if self.how.stepped else f"strength {self.amount:g}")

    def determining(self) -> dict[str, Any]:
        """The settings that the images depend on (not the batch size), with `regions` as they are."""
        return self.model_dump(exclude=_SPEED_ONLY)
