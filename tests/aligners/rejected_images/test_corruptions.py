"""Corruptions: what they leave alone, what they do, and that nothing but the generator decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligners.rejected_images.corruptions import CORRUPTIONS, blur, crop, random_mask, shuffle
from aligners.rejected_images.make import encoded, encoded_mask
from harness.core.diffusion import Diffusion, random_numbers
from harness.core.types import ImageRef

LOCAL = sorted(name for name, corruption in CORRUPTIONS.items() if corruption.where != "everywhere")


def amount(name: str, share: float = 1.0) -> float | Diffusion:
    """A share of a corruption's usual strength; of noise, that many of DDPM's steps."""
    usual = CORRUPTIONS[name].strength
    return Diffusion(max(1, round(500 * share)), "ddpm", "unit") if usual is None else usual * share


def picture(height: int = 90, width: int = 120) -> np.ndarray:
    """A smooth picture with some grain, of no constant part."""
    down, right = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    return (np.stack([down * 2, right * 1.5, (down + right)], -1) % 215 + grain).astype(np.uint8)


def blob(height: int, width: int, seed: int) -> np.ndarray:
    """A mask of a few ellipses and boxes, with at least one pixel."""
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[0:height, 0:width]
    mask = np.zeros((height, width), bool)
    for _ in range(rng.integers(1, 4)):
        y, x = rng.integers(0, height), rng.integers(0, width)
        ry, rx = rng.integers(1, height + 1), rng.integers(1, width + 1)
        shape = (
            ((down - y) / ry) ** 2 + ((right - x) / rx) ** 2 <= 0.3
            if rng.random() < 0.5
            else ((abs(down - y) < ry / 3) & (abs(right - x) < rx / 3))
        )
        mask |= shape
        mask[y, x] = True
    return mask


@pytest.mark.parametrize("name", LOCAL)
@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 70), width=st.integers(1, 70), strength=st.floats(0.01, 1))
def test_outside_of_the_mask_nothing_changes(name: str, seed: int, height: int, width: int, strength: float) -> None:
    image, mask = picture(height, width), blob(height, width, seed)
    before = image.copy()
    usual = CORRUPTIONS[name].strength
    how = amount(name, strength) if usual is None else strength
    result = CORRUPTIONS[name].apply(image, mask, random_numbers(str(seed)), how)
    assert np.array_equal(result[~mask], image[~mask])
    assert result.dtype == np.uint8 and result.shape == image.shape
    assert np.array_equal(image, before), "the original was written to"
    # It reaches the published file: what is read back is the same to the bit.
    assert np.array_equal(np.asarray(ImageRef(data=encoded(result)).open()), result)
    assert np.array_equal(np.asarray(ImageRef(data=encoded_mask(mask)).open())[..., 0] > 0, mask)


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_each_changes_what_it_should_and_depends_on_its_seed_only(name: str) -> None:
    image, mask, corruption = picture(), np.zeros((90, 120), bool), CORRUPTIONS[name]
    mask[20:70, 30:100] = True
    result = corruption.apply(image, mask, random_numbers("a"), amount(name))
    changed = (result != image).any(-1)
    share = 0.27 if name == "pixels" else 0.9
    assert changed[mask].mean() > share
    assert changed[~mask].mean() > share if corruption.where == "everywhere" else not changed[~mask].any()
    assert np.array_equal(result, corruption.apply(image, mask, random_numbers("a"), amount(name)))
    same = np.array_equal(result, corruption.apply(image, mask, random_numbers("b"), amount(name)))
    assert same == (name in ("blur", "black", "cover"))
    weaker = corruption.apply(image, mask, random_numbers("a"), amount(name, 0.1))
    if name != "crop":
        difference = [np.abs(values[mask].astype(float) - image[mask]).mean() for values in (weaker, result)]
        assert difference[0] < difference[1]


def test_shuffled_pixels_are_those_that_were_there_and_patches_stay_whole() -> None:
    image, mask = picture(), np.zeros((90, 120), bool)
    mask[8:72, 16:112] = True  # 64 x 96: patches of 8
    result = shuffle(image, mask, random_numbers("a"), 1.0)
    assert sorted(map(tuple, result[mask])) == sorted(map(tuple, image[mask]))

    def patches(values: np.ndarray) -> list[bytes]:
        return [values[y : y + 8, x : x + 8].tobytes() for y in range(8, 72, 8) for x in range(16, 112, 8)]

    before, after = patches(image), patches(result)
    assert sorted(after) == sorted(before)
    assert not any(one == other for one, other in zip(before, after, strict=True)), "a patch stayed where it was"


def test_blur_takes_as_much_of_a_small_thing_as_of_a_large_one() -> None:
    left = []
    for side in (24, 96):
        image = np.zeros((192, 192, 3), np.uint8)
        image[96 - side // 4 : 96 + side // 4, 96 - side // 4 : 96 + side // 4] = 255
        mask = np.zeros((192, 192), bool)
        mask[96 - side // 2 : 96 + side // 2, 96 - side // 2 : 96 + side // 2] = True
        left.append(float(blur(image, mask, random_numbers(""), 0.5)[96, 96, 0]))
    assert left[0] == pytest.approx(left[1], rel=0.12) and left[1] < 255


def test_a_crop_keeps_at_most_a_fifth_and_no_other_colours() -> None:
    height, width = 300, 400
    down, right = np.mgrid[0:height, 0:width]
    # Position is written into the colours: red and green tell where a pixel came from.
    image = np.stack([down * 255 / (height - 1), right * 255 / (width - 1), down * 0], -1).astype(np.uint8)
    shares = []
    for seed in range(200):
        result = crop(image, np.ones((height, width), bool), random_numbers(str(seed)), 0.8).astype(float)
        shares.append(np.ptp(result[..., 0]) / 255 * np.ptp(result[..., 1]) / 255)
    assert max(shares) < 0.21 and min(shares) < 0.03
    assert 0.08 < np.mean(shares) < 0.13  # uniform between 0.01 and 0.2
    assert crop(image[:, :3], np.ones((300, 3), bool), random_numbers("a"), 0.8).shape == (300, 3, 3)


@settings(deadline=None, max_examples=50)
@given(height=st.integers(1, 200), width=st.integers(1, 200), share=st.floats(0.001, 1), seed=st.integers(0, 99))
def test_random_regions_cover_the_share_to_the_pixel(height: int, width: int, share: float, seed: int) -> None:
    mask = random_mask(height, width, share, random_numbers(str(seed)))
    assert mask.shape == (height, width) and mask.sum() == max(1, round(share * height * width))
    assert np.array_equal(mask, random_mask(height, width, share, random_numbers(str(seed))))


def test_random_regions_are_patches_and_differ_by_seed() -> None:
    first, second = (random_mask(160, 240, 0.2, random_numbers(seed)) for seed in "ab")
    assert not np.array_equal(first, second)
    # All but the last patch are whole: a cell of the grid is full or empty.
    cells = first.reshape(8, 20, 12, 20).mean((1, 3))
    assert ((cells == 0) | (cells == 1)).sum() >= 95
    assert 18 <= (cells == 1).sum() <= 20
