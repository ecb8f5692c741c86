"""From examples to rows: keywords -> regions -> corruption. The only generator of rejected images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from aligners.rejected_images.boxes import Located, RegionQuery
from aligners.rejected_images.corruptions import random_mask
from aligners.rejected_images.keywords import keywords, pipeline
from aligners.rejected_images.regions import REGION_SOURCES
from aligners.rejected_images.settings import ImagePreferenceSettings
from harness.core.diffusion import random_numbers
from harness.core.types import PreferenceExample

BLOCK = 32
"""Number of examples whose pictures are decoded at once."""
_WEBP_LIMIT = 16383  # pixels a side


class Maker:
    """Makes the rows of rejected images; has the language pipeline and, if used, detector and segmenter.

    Args:
        settings: how they are made; `regions` must not be "auto".
        seed: seed of the whole set. An image's random numbers depend only on it and the example's id, not on order, batch, shard or
        process.
        levels: make a list of rejected images for every example, one per level (`ImagePreferenceSettings.at`), with the same regions and
        random numbers; if there is none, make one rejected image.
    """

    def __init__(self, settings: ImagePreferenceSettings, seed: int, levels: Sequence[float] = ()) -> None:
        self.settings, self.seed, self.levels = settings, seed, levels
        self._needs_regions = settings.how.where == "keywords"
        self.nlp = pipeline(settings.pipeline) if self._needs_regions else None
        self._keeps_bare = not self._needs_regions or settings.on_nothing != "drop"
        """Whether an example without a region gets a row."""
        # A corruption of random regions or of the whole image uses no detector, so none is loaded.
        self.source = REGION_SOURCES[settings.regions](settings) if self._needs_regions else None

    def rows(self, examples: Sequence[PreferenceExample]) -> Iterator[dict[str, Any]]:
        """One row (`table.MADE`) per example, in order; an example without a region in which the corruption changes something has none
        if the settings drop it."""
        for start in range(0, len(examples), BLOCK):
            block = examples[start : start + BLOCK]
            pictures = [example.images["original"].open() for example in block]
            for example, picture, located in zip(block, pictures, self._located(block, pictures), strict=True):
                original = np.asarray(picture)
                row = self._row(example.id, original, located) if located else None
                if row is None and self._keeps_bare:
                    row = self._row(example.id, original, ())
                if row is not None:
                    yield row

    def _located(self, block: Sequence[PreferenceExample], pictures: Sequence[Any]) -> list[list[Located]]:
        """The keywords that are in each picture; none if the corruption does not use keywords."""
        if self.source is None:
            return [[] for _ in block]
        asked = [
            RegionQuery(
                picture,
                keywords(example.responses["chosen"], self.settings.top_k, self.nlp, self.settings.keywords),
                example.regions,
            )
            for example, picture in zip(block, pictures, strict=True)
        ]
        # A box outside of the image, or thinner than half a pixel, cannot be corrupted.
        return [[hit for hit in hits if hit.mask.any()] for hits in self.source.locate(asked)]

    def _row(self, name: str, original: np.ndarray, located: Sequence[Located]) -> dict[str, Any] | None:
        """The row of an example; None if it has regions, and the corruption changes nothing in them at its strength or at a level."""
        settings, seed = self.settings, f"{self.seed}:{name}"
        mask = np.zeros(original.shape[:2], bool)
        for hit in located:
            mask |= hit.mask
        if settings.how.where == "random":
            mask = random_mask(original.shape[0], original.shape[1], settings.share, random_numbers(f"{seed}:regions"))
        elif not located:
            mask[:] = True

        amounts = [settings.at(level) for level in self.levels] if self.levels else [settings.amount]
        images = [settings.how.apply(original, mask, random_numbers(seed), amount) for amount in amounts]
        # A black picture made black, or a picture of one pixel shuffled.
        unchanged = any(np.array_equal(image, original) for image in images)
        if unchanged and located:
            return None
        made = {"keywords": "regions" if located else "whole-image", "random": "random-regions"}
        cells = [{"bytes": encoded(image), "path": None} for image in images]
        return {
            "id": name,
            **({"ranked_images": cells, "levels": [*self.levels]} if self.levels else {"rejected_image": cells[0]}),
            "made": "unchanged" if unchanged else made.get(settings.how.where, "whole-image"),
            "keywords": [hit.keyword for hit in located],
            "boxes": [list(hit.box) for hit in located],
            "scores": [hit.score for hit in located],
            "mask": encoded_mask(mask),
            "region_source": settings.regions if self.source else None,
            "detector": self.source.models.get("detector") if self.source else None,
            "segmenter": self.source.models.get("segmenter") if self.source else None,
            **settings.recorded(),
            "seed": seed,
        }


def encoded(values: np.ndarray) -> bytes:
    """Encode an RGB image losslessly: WebP, or PNG if a side is too long for WebP.

    Photographs of 336 pixels with noise in a quarter take 4 ms and 197 kB, as PNG (level 1) 10 ms and 226 kB.
    """
    from PIL import Image

    stream = io.BytesIO()
    picture = Image.fromarray(values)
    if max(picture.size) <= _WEBP_LIMIT:
        picture.save(stream, "WEBP", lossless=True, quality=0, method=0, exact=True)
    else:
        picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def encoded_mask(mask: np.ndarray) -> bytes:
    """A bool mask as a PNG with one bit per pixel; white is the mask."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()
