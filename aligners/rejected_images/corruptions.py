"""Corruptions that make rejected images: diffusion noise in the masks, and the alternatives of ablations.

Every corruption is a pure function of (image, mask, generator, amount). Outside of the mask, the image is unchanged bit for bit; only
corruptions that work `everywhere` ignore the mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.core.diffusion import Diffusion

Corrupt = Callable[[np.ndarray, np.ndarray, np.random.Generator, Any], np.ndarray]
"""(uint8 [height, width, 3], bool [height, width], generator, amount) -> uint8 [height, width, 3], a copy. The amount is a strength in
(0, 1], or the `Diffusion` of those that add noise."""


def noise(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, diffusion: Diffusion) -> np.ndarray:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps inside the mask.

    Source: Jiang et al., IJCAI 2025 (MFPO), section 3.1; the schedule and its scale: `harness.core.diffusion`.
    """
    result = image.copy()
    result[mask] = diffusion.add(image[mask], rng)
    return result


def whole_noise(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, diffusion: Diffusion) -> np.ndarray:
    """The same noise everywhere.

    Source: Leng et al., CVPR 2024 (VCD), eq. 2; Zhou et al., 2024 (POVID, arXiv 2402.11411), section 3; MFPO's Table 8.
    """
    return noise(image, np.ones_like(mask), rng, diffusion)


def pixels(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A share `strength` of all pixels, drawn one by one, has the image's mean colour; the mask is not checked.

    Source: Yang et al., CVPR 2025 (OPA-DPO), public code, which takes 30 % of the pixels.
    Differences: taken from the image's pixels rather than from the model's input, whose one mean over all channels it writes.
    """
    height, width = image.shape[:2]
    hidden = rng.permutation(height * width)[: max(1, round(strength * height * width))]
    result = image.copy()
    result.reshape(-1, 3)[hidden] = np.rint(image.reshape(-1, 3).mean(0)).astype(np.uint8)
    return result


def random_mask(height: int, width: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """A bool mask [height, width] of random square patches that cover `share` of the image, to the pixel.

    Patches are on a grid, an eighth of the shorter side wide; the last one is cut to the missing number of pixels.

    Source: MFPO's Table 8 compares with noise "in random 20 % of regions". The paper does not say how they are drawn: the grid is ours.
    """
    wanted, side = max(1, round(share * height * width)), max(1, min(height, width) // 8)
    rows, columns = -(-height // side), -(-width // side)
    order = rng.permutation(rows * columns)
    number = np.arange(height)[:, None] // side * columns + np.arange(width)[None, :] // side
    rank = np.empty(rows * columns, np.int64)
    rank[order] = np.arange(rows * columns)
    # Pixels sorted by their patch's random rank, and inside a patch row by row: the first ones are the mask.
    turn = np.argsort(rank[number].ravel(), kind="stable")
    mask = np.zeros(height * width, bool)
    mask[turn[:wanted]] = True
    return mask.reshape(height, width)


def blur(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Gaussian blur inside the mask; its standard deviation is `strength` times a quarter of the masked part's shorter side.

    So small and large objects lose equally much detail. Colours from just outside the mask blend in.

    Source: Fong and Vedaldi, ICCV 2017, section 4.1.
    Differences: the paper's deviation is fixed; Pillow's filter approximates the Gaussian by three box filters.
    """
    from PIL import Image, ImageFilter

    top, bottom, left, right = _extent(mask)
    deviation = max(1.0, strength / 4 * min(bottom - top, right - left))
    margin = math.ceil(3 * deviation)
    rows = slice(max(0, top - margin), bottom + margin)
    columns = slice(max(0, left - margin), right + margin)
    softened = np.asarray(Image.fromarray(image[rows, columns]).filter(ImageFilter.GaussianBlur(deviation)))
    result = image.copy()
    result[rows, columns] = np.where(mask[rows, columns, None], softened, image[rows, columns])
    return result


def black(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Darken the masked part by `strength`; 1 is black.

    Source: Fong and Vedaldi, ICCV 2017, section 4.1 (a constant value).
    """
    result = image.copy()
    result[mask] = np.rint(image[mask].astype(np.float32) * np.float32(1 - strength)).astype(np.uint8)
    return result


def cover(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Black pixels in a share `strength` of the mask: the part that is nearest to the image's edge. A weaker one is part of a stronger one.

    Source: Pesaran Zadeh et al., ACL 2025 (LPOI): a growing share of an object's box is masked, beginning at the image's edge.
    Differences: the order of pixels (by their distance from the nearest edge, then row by row) and the colour are ours, and no circle is
    drawn around the box.
    """
    height, width = mask.shape
    down, right = np.mgrid[0:height, 0:width]
    edge = np.minimum(np.minimum(down, height - 1 - down), np.minimum(right, width - 1 - right))
    pixels = np.flatnonzero(mask)
    order = pixels[np.argsort(edge.ravel()[pixels], kind="stable")]
    result = image.copy()
    result.reshape(-1, 3)[order[: max(1, round(strength * len(order)))]] = 0
    return result


def shuffle(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Exchange patches inside the mask; `strength` is the share of patches that are moved.

    A patch's side is an eighth of the masked part's shorter side (2 to 32 pixels). Patches that are only partly in the mask cannot be
    moved without changing pixels outside, so their masked pixels are permuted individually, as are all pixels if fewer than four patches
    fit.

    Source: Naseer et al., NeurIPS 2021, section 3.2 (the whole image).
    """
    top, bottom, left, right = _extent(mask)
    side = min(32, max(2, min(bottom - top, right - left) // 8))
    rows, columns = (bottom - top) // side, (right - left) // side
    result, loose = image.copy(), mask.copy()
    if rows and columns:
        area = (slice(top, top + rows * side), slice(left, left + columns * side))
        inside = np.flatnonzero(_tiles(mask[area][..., None], side).all((1, 2, 3)))
        if len(inside) >= 4:
            tiles, whole = _tiles(image[area], side), _tiles(loose[area][..., None], side)
            tiles[inside] = tiles[_moved(inside, rng, strength)]
            whole[inside] = False
            result[area], loose[area] = _untiled(tiles, columns), _untiled(whole, columns)[..., 0]
    pixels = np.flatnonzero(loose)
    flat, before = result.reshape(-1, 3), image.reshape(-1, 3)
    flat[pixels] = before[_moved(pixels, rng, strength)]
    return result


def crop(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A random part of the image, of 1 % to (1 - strength) of its area, stretched to the image's size.

    Its aspect ratio is drawn between 3:4 and 4:3, logarithmically uniform; the mask is not checked.

    Source: Wang et al., EMNLP 2024 (mDPO), section 3.2: a crop that keeps up to a fifth of the image.
    Differences: taken from the image's pixels rather than from the model's input.
    """
    from PIL import Image

    height, width = image.shape[:2]
    area = height * width * rng.uniform(0.01, max(0.01, 1 - strength))
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    across, down = (max(1.0, math.sqrt(area * ratio)), max(1.0, math.sqrt(area / ratio)))
    # Very elongated images cannot contain such a rectangle of that area: the part is then narrower, with the same area.
    if across > width:
        across, down = float(width), min(height, area / width)
    if down > height:
        across, down = min(width, area / height), float(height)
    left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
    picture = Image.fromarray(image).resize(
        (width, height), Image.Resampling.BILINEAR, box=(left, top, left + across, top + down)
    )
    return np.array(picture)


@dataclass(frozen=True)
class Corruption:
    """A registered corruption: the function, its default strength, where it works, and its description."""

    apply: Corrupt
    strength: float | None
    """Default strength; None: its amount is a `Diffusion`."""
    summary: str
    where: Literal["keywords", "random", "everywhere"] = "keywords"
    """In the regions of the keywords, in random ones, or in the whole image. Only the first needs a region source."""


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption(noise, None, "diffusion noise in the masks"),
    "blur": Corruption(blur, 0.5, "Gaussian blur in the masks"),
    "black": Corruption(black, 1.0, "black pixels in the masks"),
    "cover": Corruption(cover, 1.0, "black pixels in the part of the masks that is nearest to the image's edge"),
    "shuffle": Corruption(shuffle, 1.0, "patches shuffled within the masks"),
    "crop": Corruption(crop, 0.8, "a random crop of up to a fifth of the image", "everywhere"),
    "pixels": Corruption(pixels, 0.3, "the mean colour at random pixels of the whole image", "everywhere"),
    "whole-noise": Corruption(whole_noise, None, "diffusion noise on the whole image", "everywhere"),
    "random-regions": Corruption(noise, None, "diffusion noise in random patches", "random"),
}
"""The name in the settings -> the corruption."""


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the mask's bounding box, half open; the mask must not be empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _tiles(values: np.ndarray, side: int) -> np.ndarray:
    """[rows * side, columns * side, c] -> [rows * columns, side, side, c], a copy."""
    height, width, depth = values.shape
    grid = values.reshape(height // side, side, width // side, side, depth).swapaxes(1, 2)
    return np.array(grid).reshape(-1, side, side, depth)


def _untiled(tiles: np.ndarray, columns: int) -> np.ndarray:
    """The inverse of `_tiles`."""
    count, side, _, depth = tiles.shape
    grid = tiles.reshape(count // columns, columns, side, side, depth).swapaxes(1, 2)
    return grid.reshape(count // columns * side, columns * side, depth)


def _moved(places: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """For each position the one that its content comes from: a random `share` of them is permuted in one random cycle."""
    chosen = rng.permutation(len(places))[: max(2, round(share * len(places)))]
    source = places.copy()
    source[chosen] = places[np.roll(chosen, 1)]
    return source
