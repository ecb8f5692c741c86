"""Images are opened with a bound on their pixels; what does not decode is refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.core.errors import BadInputError
from harness.core.images import MAX_PIXELS
from harness.core.types import ImageRef
from tests.tiny import decompression_bomb, tiny_photograph


def test_a_truncated_image_is_refused_by_name(tmp_path: Path) -> None:
    whole = tiny_photograph(tmp_path / "whole.png", 0, (200, 200)).read_bytes()
    half = tmp_path / "half.png"
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInputError, match=r"half\.png"):
        ImageRef(path=half).open()
    with pytest.raises(BadInputError, match="picture 7"):
        ImageRef(data=whole[:-40], name="picture 7").open()
    with pytest.raises(BadInputError, match=r"none\.png"):
        ImageRef(path=tmp_path / "none.png").open()


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    bomb = decompression_bomb(tmp_path / "bomb.png")
    assert MAX_PIXELS < 20_000**2
    assert bomb.stat().st_size < 100_000
    with pytest.raises(BadInputError, match=r"bomb\.png"):
        ImageRef(path=bomb).open()


def test_rotation_and_colours_are_made_plain(tmp_path: Path) -> None:
    stream = io.BytesIO()
    picture = Image.new("CMYK", (30, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(stream, "JPEG", exif=exif)
    opened = ImageRef(data=stream.getvalue(), name="turned").open()
    assert opened.size == (10, 30) and opened.mode == "RGB"


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> ImageRef:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return ImageRef(data=stream.getvalue(), name="picture")


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    values = np.array([[0, 257, 0x8000, 0xFFFF]], dtype=np.uint16)
    deep = encoded(Image.fromarray(values))
    assert [pixel[0] for pixel in deep.open().get_flattened_data()] == [0, 1, 128, 255]
    assert deep.facts().treated == ("16-bit",)
    wide = encoded(Image.fromarray(np.array([[0, 70_000]], dtype=np.int32)), "TIFF")
    with pytest.raises(BadInputError, match="0 to 70000, which is not a 16-bit range"):
        wide.open()
    with pytest.raises(BadInputError, match="unknown range"):
        encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF").facts()


def test_hidden_colours_are_not_shown() -> None:
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 255, 255))
    image = encoded(picture)
    assert list(image.open().get_flattened_data()) == [(255, 255, 255), (0, 0, 255)]
    assert image.facts().treated == ("transparent",)


def test_of_an_animation_the_first_frame_is_taken_and_that_is_said() -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue", "green")]
    image = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert image.open().getpixel((0, 0)) == (255, 0, 0)
    assert image.facts().treated == ("animated",)


def test_the_size_is_that_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    for kind in ("JPEG", "PNG", "WEBP"):
        image = encoded(Image.new("RGB", (30, 10)), kind, exif=exif)
        assert image.size() == image.open().size == (10, 30)
        assert image.facts().treated == ("rotated",)
    cmyk = encoded(Image.new("CMYK", (3, 3), (0, 255, 255, 0)), "JPEG", quality=95)
    assert cmyk.facts().treated == ("CMYK",)
    red, green, blue = cmyk.open().getpixel((1, 1))  # type: ignore[misc]
    assert red > 200 and green < 40 and blue < 40


def test_looking_reads_to_the_end() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "WEBP"):
        whole = encoded(noise, kind).read()
        for part in (0.3, 0.98):
            cut = ImageRef(data=whole[: int(part * len(whole))], name="cut")
            with pytest.raises(BadInputError, match="does not decode"):
                cut.facts()


def test_formats_that_start_other_programs_are_refused() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(BadInputError, match="it is PostScript, which is not supported"):
        ImageRef(data=eps).open()
