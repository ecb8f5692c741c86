"""Finding keywords in images: by the data set's boxes, or with an open-vocabulary detector and a segmenter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aligners.rejected_images.boxes import Located, RegionQuery, RegionSource, box_mask
from aligners.rejected_images.detectors import Detected, GroundingDino, Owlv2, Pretrained, Sam, Sam3
from aligners.rejected_images.settings import ImagePreferenceSettings
from harness.core.types import PreferenceExample


class DatasetRegions:
    """The boxes that come with the data, matched to keywords by their lemmas."""

    def __init__(self) -> None:
        self.models: dict[str, str] = {}

    def locate(self, asked: Sequence[RegionQuery]) -> list[list[Located]]:
        """A keyword matches a region if the label's words are all among the keyword's (words or lemmas), or vice versa."""
        located: list[list[Located]] = []
        for query in asked:
            labels = [set(region.label.lower().split()) for region in query.regions]
            hits = []
            for keyword in query.keywords:
                words, lemmas = set(keyword.phrase.split()), set(keyword.lemmas)
                for region, label in zip(query.regions, labels, strict=True):
                    if label and (label <= words | lemmas or words <= label or lemmas <= label):
                        mask = box_mask(region.box, query.picture.width, query.picture.height)
                        hits.append(Located(keyword.phrase, region.box, mask))
            located.append(hits)
        return located


def _with_masks(detector: Any) -> Callable[[ImagePreferenceSettings], RegionSource]:
    return lambda settings: Detected(detector(settings), Sam(settings), settings.batch_size)


def _with_boxes(detector: Any) -> Callable[[ImagePreferenceSettings], RegionSource]:
    return lambda settings: Detected(detector(settings), None, settings.batch_size)


REGION_SOURCES: dict[str, Callable[[ImagePreferenceSettings], RegionSource]] = {
    "dataset": lambda settings: DatasetRegions(),
    "grounding-dino+sam": _with_masks(GroundingDino),
    "grounding-dino": _with_boxes(GroundingDino),
    "owlv2+sam": _with_masks(Owlv2),
    "owlv2": _with_boxes(Owlv2),
    "sam3": Sam3,
}
"""A name of `boxes.SOURCES` -> function that makes the source and loads its models."""
MODELS: dict[str, tuple[type[Pretrained], ...]] = {
    "dataset": (),
    "grounding-dino+sam": (GroundingDino, Sam),
    "grounding-dino": (GroundingDino,),
    "owlv2+sam": (Owlv2, Sam),
    "owlv2": (Owlv2,),
    "sam3": (Sam3,),
}
"""A name of `boxes.SOURCES` -> its models."""


def choose_source(name: str, examples: Sequence[PreferenceExample]) -> str:
    """Resolve the name of a source for these examples: "auto" is the data set's boxes if every example has them, else the detector."""
    if name != "auto":
        return name
    return "dataset" if all(example.regions for example in examples) else "grounding-dino+sam"
