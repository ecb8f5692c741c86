"""Boxes and masks of keywords in images: queries to region sources, their results, and the names of the sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aligners.rejected_images.keywords import Keyword
from harness.core.types import Region

SOURCES = ("dataset", "grounding-dino+sam", "grounding-dino", "owlv2+sam", "owlv2", "sam3")
"""Valid values of `regions`. Without "+sam" the masks are the boxes."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class RegionQuery:
    """One image and what to find in it: an RGB picture (PIL), the keywords, and the regions of the data."""

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
    """Finds keywords in images. `models` maps role -> folder or hub id of the models that it uses."""

    models: dict[str, str]

    def locate(self, asked: Sequence[RegionQuery]) -> list[list[Located]]:
        """Return for each image the keywords that were found."""


def box_mask(box: Box, width: int, height: int) -> np.ndarray:
    """Bool mask [height, width] of a box, clipped to the image."""
    left, top, right, bottom = (round(edge) for edge in box)
    mask = np.zeros((height, width), bool)
    mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return mask
