"""Where the keywords are in the image: boxes that the data set gives, or an open-vocabulary detector and a segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aligners.mfpo.image_preferences.keywords import Keyword
from harness.types import PreferenceExample

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Located:
    """A keyword found in an image: its box in pixels and a bool mask [height, width]."""

    keyword: str
    box: Box
    mask: np.ndarray


class RegionSource(Protocol):
    """Finds keywords in images."""

    def locate(self, examples: Sequence[PreferenceExample], wanted: Sequence[Sequence[Keyword]]) -> list[list[Located]]:
        """Per example the keywords that were found, in the order of the keywords."""


def box_mask(box: Box, width: int, height: int) -> np.ndarray:
    """Bool mask [height, width] of a box, clipped to the image."""
    left, top, right, bottom = (round(edge) for edge in box)
    mask = np.zeros((height, width), bool)
    mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return mask


class DatasetRegions:
    """The boxes that come with the data, matched to keywords by their lemmas."""

    def locate(self, examples: Sequence[PreferenceExample], wanted: Sequence[Sequence[Keyword]]) -> list[list[Located]]:
        """A keyword matches a region if the label's words are all among the keyword's (words or lemmas), or the other way round."""
        found: list[list[Located]] = []
        for example, keys in zip(examples, wanted, strict=True):
            width, height = example.images["original"].open().size
            hits = []
            for keyword in keys:
                words = set(keyword.phrase.split())
                forms = words | set(keyword.lemmas)
                for region in example.regions:
                    label = set(region.label.lower().split())
                    if label <= forms or words <= label or set(keyword.lemmas) <= label:
                        hits.append(Located(keyword.phrase, region.box, box_mask(region.box, width, height)))
            found.append(hits)
        return found


class GroundingDinoSam:
    """Grounding DINO finds boxes for the keywords, SAM refines them to masks; both through transformers."""

    def __init__(self, detector: str, segmenter: str, box_threshold: float, text_threshold: float) -> None:
        from harness.models import quiet_transformers

        quiet_transformers()
        import torch
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, SamModel, SamProcessor

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.box_threshold, self.text_threshold = box_threshold, text_threshold
        self.detector_processor = AutoProcessor.from_pretrained(detector)
        self.detector = AutoModelForZeroShotObjectDetection.from_pretrained(detector).to(self.device).eval()
        self.segmenter_processor = SamProcessor.from_pretrained(segmenter)
        self.segmenter = SamModel.from_pretrained(segmenter).to(self.device).eval()

    def locate(self, examples: Sequence[PreferenceExample], wanted: Sequence[Sequence[Keyword]]) -> list[list[Located]]:
        """All of an example's keywords are asked for at once, as Grounding DINO's captions are made: "a dog. a cup."."""
        found: list[list[Located]] = []
        for example, keys in zip(examples, wanted, strict=True):
            picture = example.images["original"].open()
            boxes = self._boxes(picture, [keyword.phrase for keyword in keys]) if keys else []
            masks = self._masks(picture, [box for _, box in boxes]) if boxes else []
            found.append([Located(label, box, mask) for (label, box), mask in zip(boxes, masks, strict=True)])
        return found

    def _boxes(self, picture: Any, phrases: list[str]) -> list[tuple[str, Box]]:
        import torch

        caption = " ".join(f"{phrase}." for phrase in phrases)
        inputs = self.detector_processor(images=picture, text=caption, return_tensors="pt").to(self.device)
        with torch.no_grad():
            outputs = self.detector(**inputs)
        result = self.detector_processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=self.box_threshold,
            text_threshold=self.text_threshold,
            target_sizes=[(picture.height, picture.width)],
        )[0]
        labels = result.get("text_labels", result["labels"])
        return [
            (str(label), tuple(float(edge) for edge in box))  # type: ignore[misc]
            for label, box in zip(labels, result["boxes"].tolist(), strict=True)
        ]

    def _masks(self, picture: Any, boxes: list[Box]) -> list[np.ndarray]:
        import torch

        inputs = self.segmenter_processor(picture, input_boxes=[[list(box) for box in boxes]], return_tensors="pt").to(
            self.device
        )
        with torch.no_grad():
            outputs = self.segmenter(**inputs, multimask_output=False)
        masks = self.segmenter_processor.image_processor.post_process_masks(
            outputs.pred_masks.cpu(), inputs["original_sizes"].cpu(), inputs["reshaped_input_sizes"].cpu()
        )[0]
        # A mask that SAM leaves empty is replaced by its box: the region was found, only its outline was not.
        return [
            mask if (mask := row[0].numpy().astype(bool)).any() else box_mask(box, picture.width, picture.height)
            for row, box in zip(masks, boxes, strict=True)
        ]
