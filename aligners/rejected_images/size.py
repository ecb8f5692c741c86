"""Predicting the size of a set of rejected images from a few originals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aligners.rejected_images.make import encoded
from harness.core.types import ImageRef

_SAMPLED = 8


def predicted_bytes(originals: Sequence[ImageRef]) -> int:
    """Predicted bytes of the rejected images of these originals, extrapolated from a few that are encoded with noise in a quarter."""
    if not originals:
        return 0
    sizes = []
    for image in originals[:: max(1, len(originals) // _SAMPLED)][:_SAMPLED]:
        values = np.array(image.open())
        height, width = values.shape[0] // 2, values.shape[1] // 2
        values[:height, :width] = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        sizes.append(len(encoded(values)))
    return round(sum(sizes) / len(sizes) * len(originals))
