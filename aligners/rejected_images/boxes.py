"""Boxes and masks of keywords in images: what a region source is asked, what it gives, and the names of the sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aligners.rejected_images.keywords import Keyword
from harness.core.types import Region

SOURCES = ("dataset", "grounding-dino+sam", "grounding-dino", "owlv2+sam", "owlv2", "sam3")
"""What `regions` may name. Without "+sam" the masks are the boxes."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class RegionQuery:
    """One image with what is looked for in it: an RGB picture (PIL), the keywords, and the regions that the data give."""

    picture: Any
    keywords: Sequence[Keyword]
    regions: Sequence[Region] = ()


@dataclass(frozen=True)
class Located:
    """A keyword found in an image: its box in pixels, a bool mask [height, width], and the detector's score (0 to 1), if one found it."""

    keyword: str
    box: Box
    mask: np.ndarray
    score: float | None = None


class RegionSource(Protocol):
    """Finds keywords in images. `models` says which models it asks, as role -> folder or hub id."""

    models: dict[str, str]

    def locate(self, asked: Sequence[RegionQuery]) -> list[list[Located]]:
        """Per image the keywords that were found."""


def box_mask(box: Box, width: int, height: int) -> np.ndarray:
    """Bool mask [height, width] of a box, clipped to the image."""
    left, top, right, bottom = (round(edge) for edge in box)
    mask = np.zeros((height, width), bool)
    mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return mask
