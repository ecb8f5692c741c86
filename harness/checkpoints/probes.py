"""Drawn pictures and questions for probing a checkpoint: of many sizes and shapes, the same on every machine."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass

from harness.core.types import ImageRef

_SIZES = ((336, 336), (640, 480), (375, 500), (1000, 300), (64, 64), (480, 640), (224, 900), (512, 384), (97, 211))
"""Width and height: a tower's own size, photographs, strips that tiling cuts up, smaller than a tower's window, odd numbers."""
_PROMPTS = (
    "Describe this image.",
    "Is there a dog in the image? Please answer this question with one word.",
    "What is in the image?\nName the objects, then their colours.",
    "Please describe this image in detail. What is at the left, what at the right, and how many people are there?",
    "Wie viele Tische gibt es? ¿Qué ves aquí? 这是什么? 🙂",
    "how many  cats ,  and what are they doing",
    "- person\n- chair\n\nWhich of these is not in the image?",
)
"""Seven kinds: coprime to the nine sizes, so that 63 probes differ in kind or size."""
_SHAPES = 12


@dataclass(frozen=True)
class Probe:
    """A question about a picture of `size` (width, height)."""

    id: str
    prompt: str
    image: ImageRef
    size: tuple[int, int]


@functools.cache
def draw_probes(count: int) -> tuple[Probe, ...]:
    """The first `count` probes; a probe does not depend on `count`."""
    return tuple(_probe(number) for number in range(count))


def _probe(number: int) -> Probe:
    size = _SIZES[number % len(_SIZES)]
    picture = ImageRef(data=_picture(number, size), name=f"probe {number + 1}")
    return Probe(str(number + 1), _PROMPTS[number % len(_PROMPTS)], picture, size)


def _picture(number: int, size: tuple[int, int]) -> bytes:
    """Coloured shapes on a coloured ground, as PNG: large areas, as photographs have them, and sharp edges."""
    import numpy as np
    from PIL import Image, ImageDraw

    rng = np.random.default_rng([20241015, number])

    def colour() -> tuple[int, ...]:
        return tuple(rng.integers(0, 256, 3).tolist())

    image = Image.new("RGB", size, colour())
    draw = ImageDraw.Draw(image)
    for shape in range(_SHAPES):
        (left, right), (top, bottom) = (sorted(rng.integers(0, side, 2).tolist()) for side in size)
        (draw.rectangle if shape % 2 else draw.ellipse)((left, top, right, bottom), fill=colour())
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
