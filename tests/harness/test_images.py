"""Images are opened with a bound on their pixels; what does not decode is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from harness.errors import BadInputError
from harness.types import MAX_PIXELS, ImageRef
from tests.tiny import tiny_photograph


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
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 20_000
    assert side * side > MAX_PIXELS
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
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
