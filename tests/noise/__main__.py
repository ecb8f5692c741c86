"""A contact sheet of noise: `python -m tests.noise [PICTURE...] -o sheet.jpg`, each picture at steps of both schedules and scales.

Without pictures it is of the photograph that comes with Matplotlib (Grace Hopper; US Navy, public domain), as in docs/mfpo.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from aligners.rejected_images.corruptions import noise
from harness.core.diffusion import Diffusion, random_numbers

SIDE, HEAD = 200, 22
SHOWN = (
    *(Diffusion(step, "vcd", "clip") for step in (250, 500, 750, 999)),
    Diffusion(500, "vcd", "unit"),
    *(Diffusion(step, "ddpm", "unit") for step in (167, 500)),
)


def sheet(pictures: list[Path]) -> Image.Image:
    """A row a picture: as it is, then noised everywhere."""
    font = ImageFont.load_default(13)
    page = Image.new("RGB", ((1 + len(SHOWN)) * SIDE, len(pictures) * SIDE + HEAD), "white")
    pen = ImageDraw.Draw(page)
    titles = ["original", *(f"{how.schedule} {how.step}, {how.scale}: {how.kept:.3f}" for how in SHOWN)]
    for column, title in enumerate(titles):
        pen.text((column * SIDE + 4, 4), title, "black", font)
    for row, path in enumerate(pictures):
        with Image.open(path) as picture:
            # As large as the model sees it, so that the grain is that of its input.
            original = np.asarray(picture.convert("RGB").resize((336, 336)))
        mask = np.ones(original.shape[:2], bool)
        noised = [noise(original, mask, random_numbers(f"{path.name}:{how}"), how) for how in SHOWN]
        for column, values in enumerate([original, *noised]):
            page.paste(Image.fromarray(values).resize((SIDE - 4, SIDE - 4)), (column * SIDE, HEAD + row * SIDE))
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="*")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    usual = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    sheet(arguments.pictures or [usual]).save(arguments.output)
