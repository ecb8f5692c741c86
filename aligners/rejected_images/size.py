"""Predicting the size of a set of rejected images from a few of its images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aligners.rejected_images.make import encoded
from harness.core.types import ImageRef

_SAMPLED = 8


def predicted_bytes(originals: Sequence[ImageRef]) -> int:
    """Predicted bytes of the rejected images of these originals, extrapolated from a few that are encoded with noise in a quarter."""
    sizes = []
    for image in _some(originals):
        values = np.array(image.open())
        height, width = values.shape[0] // 2, values.shape[1] // 2
        values[:height, :width] = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        sizes.append(len(encoded(values)))
    return _extrapolated(sizes, len(originals))


def predicted_copies(images: Sequence[ImageRef]) -> int:
    """Predicted bytes of images that are stored as they are, extrapolated from a few."""
    return _extrapolated([len(image.read()) for image in _some(images)], len(images))


def _some(images: Sequence[ImageRef]) -> Sequence[ImageRef]:
    return images[:: max(1, len(images) // _SAMPLED)][:_SAMPLED]


def _extrapolated(sizes: Sequence[int], count: int) -> int:
    return round(sum(sizes) / len(sizes) * count) if sizes else 0
