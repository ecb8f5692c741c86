"""Where the keywords are in the image: boxes that the data set gives, or an open-vocabulary detector and a segmenter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from aligners.rejected_images.keywords import Keyword
from harness.core.types import PreferenceExample, Region

if TYPE_CHECKING:
    from aligners.rejected_images.settings import ImagePreferenceSettings

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Asked:
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

    def locate(self, asked: Sequence[Asked]) -> list[list[Located]]:
        """Per image the keywords that were found."""


def box_mask(box: Box, width: int, height: int) -> np.ndarray:
    """Bool mask [height, width] of a box, clipped to the image."""
    left, top, right, bottom = (round(edge) for edge in box)
    mask = np.zeros((height, width), bool)
    mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return mask


class DatasetRegions:
    """The boxes that come with the data, matched to keywords by their lemmas."""

    def __init__(self) -> None:
        self.models: dict[str, str] = {}

    def locate(self, asked: Sequence[Asked]) -> list[list[Located]]:
        """A keyword matches a region if the label's words are all among the keyword's (words or lemmas), or the other way round."""
        found: list[list[Located]] = []
        for one in asked:
            labels = [set(region.label.lower().split()) for region in one.regions]
            hits = []
            for keyword in one.keywords:
                words, lemmas = set(keyword.phrase.split()), set(keyword.lemmas)
                for region, label in zip(one.regions, labels, strict=True):
                    if label and (label <= words | lemmas or words <= label or lemmas <= label):
                        mask = box_mask(region.box, one.picture.width, one.picture.height)
                        hits.append(Located(keyword.phrase, region.box, mask))
            found.append(hits)
        return found


def _grounding_dino(settings: ImagePreferenceSettings, segment: bool) -> RegionSource:
    from aligners.rejected_images.detectors import Detected, GroundingDino

    return Detected(GroundingDino(settings), _sam(settings) if segment else None, settings.batch_size)


def _owlv2(settings: ImagePreferenceSettings, segment: bool) -> RegionSource:
    from aligners.rejected_images.detectors import Detected, Owlv2

    return Detected(Owlv2(settings), _sam(settings) if segment else None, settings.batch_size)


def _sam(settings: ImagePreferenceSettings) -> Any:
    from aligners.rejected_images.detectors import Sam

    return Sam(settings)


def _sam3(settings: ImagePreferenceSettings) -> RegionSource:
    from aligners.rejected_images.detectors import Sam3

    return Sam3(settings)


REGION_SOURCES: dict[str, Callable[[ImagePreferenceSettings], RegionSource]] = {
    "dataset": lambda settings: DatasetRegions(),
    "grounding-dino+sam": lambda settings: _grounding_dino(settings, segment=True),
    "grounding-dino": lambda settings: _grounding_dino(settings, segment=False),
    "owlv2+sam": lambda settings: _owlv2(settings, segment=True),
    "owlv2": lambda settings: _owlv2(settings, segment=False),
    "sam3": _sam3,
}
"""The name in the settings -> what makes the source; models are loaded only then. Without "+sam" the masks are the boxes."""


def choose_source(name: str, examples: Sequence[PreferenceExample]) -> str:
    """The source that a name means for these examples: "auto" is the data set's boxes if every example has them, else the detector."""
    if name != "auto":
        return name
    return "dataset" if all(example.regions for example in examples) else "grounding-dino+sam"
