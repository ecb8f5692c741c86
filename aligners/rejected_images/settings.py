"""Settings of making rejected images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from aligners.rejected_images.boxes import SOURCES
from aligners.rejected_images.corruptions import CORRUPTIONS, Corruption
from aligners.rejected_images.keywords import Ranking
from harness.core.config import StrictModel
from harness.core.diffusion import STEPS, Diffusion, Scale, Schedule
from harness.core.errors import UnknownNameError

_SPEED_ONLY = {"batch_size"}
_OF_KEYWORDS = {
    "keywords",
    "top_k",
    "regions",
    "on_nothing",
    "pipeline",
    "detector",
    "segmenter",
    "box_threshold",
    "text_threshold",
    "precision",
}
"""Settings without effect if the corruption does not use keywords."""
MOST_LEVELS = 8
"""Of a list of rejected images: the trainer's canary computes the loss at every corner of what the branches may differ by."""


def checked_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """The levels of a list of rejected images.

    Raises:
        ValueError: they do not rise from above 0 to at most 1, or there are too many.
    """
    if not levels or not all(0 < a < b for a, b in pairwise((*levels, 2.0))) or levels[-1] > 1:
        raise ValueError(f"the levels must rise from above 0 to at most 1, not {list(levels)}")
    if len(levels) > MOST_LEVELS:
        raise ValueError(f"at most {MOST_LEVELS} levels can be compared, not {len(levels)}")
    return tuple(levels)


class ImagePreferenceSettings(StrictModel):
    """How the rejected images are made."""

    keywords: Ranking = Field(
        "graph", description="graph (MFPO's graph of words) or multipartite (MultipartiteRank of noun phrases)"
    )
    top_k: int = Field(5, ge=1, le=32, description="keywords per example")
    regions: str = Field(
        "auto",
        description="source of the regions: dataset, grounding-dino+sam, owlv2+sam, grounding-dino, owlv2, sam3; auto: the data "
        "set's boxes if every example has them, else grounding-dino+sam",
    )
    corruption: str = Field("noise", description=", ".join(CORRUPTIONS))
    step: int = Field(500, ge=0, le=STEPS, description="diffusion step t, for the corruptions that add noise")
    schedule: Schedule = Field(
        "vcd",
        description="noise schedule: vcd (0.75 of the image's variance is left at half of the steps) or ddpm (0.08)",
    )
    scale: Scale = Field(
        "clip", description="pixel scale on which noise is added: CLIP's normalised input (clip), or [-1, 1] (unit)"
    )
    share: float = Field(0.2, gt=0, le=1, description="fraction of the image that random-regions covers")
    strength: float | None = Field(
        None, gt=0, le=1, description="strength of the other corruptions; None: the default of each"
    )
    on_nothing: Literal["whole-image", "drop"] = Field(
        "whole-image",
        description="what to do when no keyword is found: corrupt the whole image, or drop the example",
    )
    pipeline: str = Field(
        "blank",
        description="spaCy pipeline (a package or a folder) for keywords; 'blank' needs no download, but has no tagger and no vectors",
    )
    detector: str | None = Field(
        None,
        description="folder or hub id of the detector; None: the default of `regions`; without effect if `regions` is dataset or sam3",
    )
    segmenter: str | None = Field(
        None,
        description="folder or hub id of the segmenter; None: facebook/sam-vit-base, or facebook/sam3 for sam3; without effect if "
        "`regions` has neither +sam nor sam3",
    )
    box_threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="minimum score of a box; None: the detector's default (0.35, OWLv2 0.2, SAM 3 0.5)",
    )
    text_threshold: float = Field(0.25, gt=0, lt=1, description="minimum score of a box's words, for Grounding DINO")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="data type of detector and segmenter; auto: bfloat16 on a GPU if the model allows it, else float32",
    )
    batch_size: int = Field(8, ge=1, description="images per forward pass of detector and segmenter")

    @field_validator("corruption")
    @classmethod
    def _known_corruption(cls, name: str) -> str:
        if name not in CORRUPTIONS:
            raise ValueError(UnknownNameError("corruption", name, CORRUPTIONS).problem)
        return name

    @field_validator("regions")
    @classmethod
    def _known_regions(cls, name: str) -> str:
        if name != "auto" and name not in SOURCES:
            raise ValueError(UnknownNameError("region source", name, ["auto", *SOURCES]).problem)
        return name

    @model_validator(mode="after")
    def _one_amount(self) -> ImagePreferenceSettings:
        for unused, names in (
            (self.how.strength is not None, ("step", "schedule", "scale")),
            (self.how.where != "random", ("share",)),
        ):
            fields = type(self).model_fields
            if unused and (named := [one for one in names if getattr(self, one) != fields[one].default]):
                raise ValueError(f"the corruption '{self.corruption}' takes no '{named[0]}'")
        if self.strength is not None and self.how.strength is None:
            raise ValueError(f"the corruption '{self.corruption}' has no strength; use 'step'")
        if self.how.strength is None:
            diffusion = Diffusion(self.step, self.schedule, self.scale)  # its error names the schedule's steps
            if diffusion.kept == 1:
                raise ValueError(
                    f"step {self.step} of the schedule '{self.schedule}' adds no noise; take a step from 1 on"
                )
        return self

    @property
    def how(self) -> Corruption:
        """The named corruption."""
        return CORRUPTIONS[self.corruption]

    @property
    def diffusion(self) -> Diffusion | None:
        """The noise, if the corruption adds noise."""
        return Diffusion(self.step, self.schedule, self.scale) if self.how.strength is None else None

    @property
    def amount(self) -> float | Diffusion:
        """The argument of the corruption: its noise, or its strength."""
        return self.diffusion or (self.how.strength if self.strength is None else self.strength)  # type: ignore[return-value]

    def at(self, level: float) -> float | Diffusion:
        """The argument of the corruption at a level in (0, 1], a share of its strength or of its diffusion steps."""
        if isinstance(self.amount, Diffusion):
            return Diffusion(round(level * self.step), self.schedule, self.scale)
        return level * self.amount

    def recorded(self) -> dict[str, Any]:
        """How an image was corrupted, for its row; None for values that do not apply."""
        diffusion = self.diffusion
        return {
            "corruption": self.corruption,
            "step": diffusion.step if diffusion else None,
            "schedule": diffusion.schedule if diffusion else None,
            "scale": diffusion.scale if diffusion else None,
            "strength": None if diffusion else self.amount,
        }

    def described(self) -> str:
        """Text that describes the corruption."""
        if (diffusion := self.diffusion) is None:
            return f"{self.how.summary}, strength {self.amount:g}"
        share = f" ({100 * self.share:g} % of the image)" if self.how.where == "random" else ""
        return f"{self.how.summary}{share}, t = {diffusion.step} of {diffusion.schedule}'s schedule, scale {diffusion.scale}"

    def determining(self) -> dict[str, Any]:
        """The settings that the images depend on (not the batch size, and only those that the corruption uses), with the actual
        `regions`."""
        unused = set(_SPEED_ONLY)
        if self.how.where != "keywords":
            unused |= _OF_KEYWORDS
        if self.how.where != "random":
            unused.add("share")
        if self.how.strength is not None:
            unused |= {"step", "schedule", "scale"}
        return self.model_dump(exclude=unused)
