"""The image preference generator's speed: a made-up preference set of photograph-like images with boxes, start-up apart."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aligners.rejected_images import ImagePreferenceSettings
from aligners.rejected_images.image_set import write_set
from aligners.rejected_images.parts import PartWriter, SetPart, SetRecipe, write_here, write_in_processes
from harness.core.types import ImageRef, PreferenceExample, Region

SIDE, COUNT, PICTURES = 336, 256, 32
_NAMES = ("dog", "dining table", "umbrella", "boat", "window", "tree")
_REST = (
    "near an old building. Several people walk along the street, and some cars are parked under the trees in the shade."
)


def examples() -> list[PreferenceExample]:
    """Images as hard to encode as photographs: noise of falling spectrum (1/f), as JPEG of quality 90; one to three boxes each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :])
    frequency[0, 0] = 1
    pictures = []
    for _ in range(PICTURES):
        spectrum = np.fft.rfft2(rng.standard_normal((SIDE, SIDE, 3)), axes=(0, 1)) / frequency[..., None]
        values = np.fft.irfft2(spectrum, (SIDE, SIDE), axes=(0, 1))
        stream = io.BytesIO()
        pixels = np.clip(128 + 50 * values / values.std(), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        pictures.append(stream.getvalue())
    made = []
    for number in range(COUNT):
        names = list(rng.permutation(_NAMES)[: int(rng.integers(1, 4))])
        regions = []
        for name in names:
            left, top = rng.uniform(0, SIDE / 2, 2)
            width, height = rng.uniform(SIDE / 8, SIDE / 2, 2)
            regions.append(Region(name, (left, top, left + width, top + height)))
        said = f"The image shows a {', a '.join(names)} {_REST}"
        made.append(
            PreferenceExample(
                str(number),
                "Describe this image in detail.",
                {"original": ImageRef(data=pictures[number % PICTURES])},
                {"chosen": said, "rejected": "A cat."},
                None,
                tuple(regions),
            )
        )
    return made


def rates(cores: int) -> Iterator[tuple[str, float, str, float]]:
    """(what, figure, unit, least acceptable figure): one process with its models loaded, then one process a core, start-up included."""
    rows = examples()
    recipe = SetRecipe(ImagePreferenceSettings(regions="dataset"), 0, whole=True)
    with tempfile.TemporaryDirectory() as folder:
        writer = PartWriter(recipe)
        writer.write(SetPart(Path(folder) / "warm", rows[:16]))
        start = time.perf_counter()
        writer.write(SetPart(Path(folder) / "measured", rows))
        yield (
            "rejected images, boxes given, 336 px, one process",
            len(rows) / (time.perf_counter() - start),
            "images/s",
            50,
        )
        many = [
            PreferenceExample(
                f"{turn}-{request.id}", request.prompt, request.images, request.responses, None, request.regions
            )
            for turn in range(4)
            for request in rows
        ]
        for what, write in (("one process", write_here), (f"{cores} processes", write_in_processes(cores))):
            start = time.perf_counter()
            write_set(Path(folder) / what, many, recipe, {"data": "speed"}, part_size=128, write=write)
            yield f"the same, {what}, start-up included", len(many) / (time.perf_counter() - start), "images/s", 50
