"""Decoding pictures in the same way for training, judging and serving.

A picture is an RGB image of 8 bits a channel, upright. Other images are converted: an EXIF rotation is applied, 16 bits are
scaled to 8 (not cut off, which makes such images white), CMYK is converted, a transparent picture is laid on white (its hidden colours
are not content; vLLM does the same), and the first frame of an animation is taken.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.core.errors import BadInputError, HarnessError, shown

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 178_956_970
"""Larger images are refused as decompression bombs (Pillow's own bound)."""
MAX_BYTES = 1 << 30
"""Larger files are not read: pictures of `MAX_PIXELS` have fewer bytes."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""The formats that are read. Pillow reads more, including some that start other programs (EPS)."""
TREATMENTS = {
    "rotated": "rotated by their EXIF orientation",
    "16-bit": "scaled from 16 to 8 bits per channel",
    "CMYK": "converted from CMYK",
    "transparent": "transparent, placed on white",
    "animated": "reduced to the first of several frames",
}
_OTHERS = {
    b"%PDF": "a PDF document",
    b"%!PS": "PostScript",
    b"ftypheic": "HEIC",
    b"ftypmif1": "HEIF",
    b"ftypavif": "AVIF",
    b"ftypisom": "a video (MP4)",
    b"version https://git-lfs": "a Git LFS pointer instead of the file (git lfs pull downloads it)",
    b"PK\x03\x04": "a ZIP archive",
}
"""First bytes of files that are often mistaken for pictures."""
ORIENTATION = 0x0112
"""The EXIF tag of a picture's rotation."""
_QUARTER_TURNS = (5, 6, 7, 8)
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts about a picture: width and height in pixels when upright, and how decoding changes it (keys of `TREATMENTS`)."""

    width: int
    height: int
    treated: tuple[str, ...] = ()


def decode(data: bytes, where: str) -> Image:
    """The picture as RGB, upright.

    Args:
        data: an encoded image in one of `FORMATS`.
        where: its name in errors.

    Raises:
        BadInputError: it does not decode, is truncated, has too many pixels, or values without a known range.
    """
    from PIL import ImageOps

    with _opened(data, where) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in _DEEP:
            return _scaled(upright, where)
        if upright.mode == "F":
            raise BadInputError(
                "the image has floating-point values of unknown range", where=where, remedy="save it with 8 bits"
            )
        if _transparent(upright):
            from PIL import Image as Images

            layer = upright.convert("RGBA")
            white = Images.new("RGBA", layer.size, "white")
            return Images.alpha_composite(white, layer).convert("RGB")
        return upright.convert("RGB")


def size(data: bytes, where: str) -> tuple[int, int]:
    """Width and height when upright; from the header alone if the format has its EXIF data there (JPEG, WebP).

    Raises:
        BadInputError: it has no readable header, or too many pixels.
    """
    with _opened(data, where) as image:
        return _upright_size(image)


def look(data: bytes, where: str) -> ImageFacts:
    """Decode a whole picture without keeping it, and return its facts.

    A JPEG is decoded at an eighth of its size, which reads all of the file at a fifth of the cost.

    Raises:
        BadInputError: as `decode`.
    """
    with _opened(data, where) as image:
        if image.mode in (*_DEEP, "F"):
            decode(data, where)  # whether the values have a known range is only visible in the values
        treated = _treated(image)
        width, height = _upright_size(image)
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        return ImageFacts(width, height, treated)


@contextmanager
def _opened(data: bytes, where: str) -> Iterator[Image]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height}")
            getattr(
                image, "n_frames", 1
            )  # counts the frames, so that a file with broken later frames is always refused
            yield image
    except HarnessError:
        raise
    except UnidentifiedImageError:
        raise BadInputError(
            f"the image does not decode: it is {_kind(data)}",
            where=where,
            remedy=f"save it as {' or '.join(FORMATS[:3])}",
        ) from None
    except Image.DecompressionBombError:
        raise BadInputError(
            f"the image has more than {MAX_PIXELS} pixels, like a decompression bomb",
            where=where,
            remedy="make it smaller",
        ) from None
    except MemoryError:
        raise BadInputError(
            "the image does not decode: it needs more memory than is available, which a broken header can cause",
            where=where,
            remedy="save it again, or leave it out",
        ) from None
    # On broken files, decoders raise errors of any type: TypeError, IndexError, struct.error, zlib.error, ...
    except Exception as error:  # noqa: BLE001
        reason = str(error) or type(error).__name__
        raise BadInputError(
            f"the image does not decode: {shown(reason, 200)[1:-1]}",
            where=where,
            remedy="save it again, or leave it out",
        ) from None


def _kind(data: bytes) -> str:
    """A guess at what an unreadable file is, by its first bytes."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start:
        return "empty"
    if start.startswith(b"<?xml") or start[:4].lower() == b"<svg":
        return "a vector drawing (SVG, XML), not a bitmap image" if b"<svg" in data[:4096].lower() else "XML"
    if start[:9].lower() in (b"<!doctype", b"<html") or start[:5].lower() == b"<html":
        return "a web page (HTML), which a failed download can leave"
    for mark, name in _OTHERS.items():
        if start.startswith(mark) or data[4:12] == mark:
            return f"{name}, which is not supported"
    return f"none of {', '.join(FORMATS)}, or damaged at its beginning, {data[:8]!r}"


def _upright_size(image: Image) -> tuple[int, int]:
    turned = image.getexif().get(ORIENTATION) in _QUARTER_TURNS
    return (image.height, image.width) if turned else (image.width, image.height)


def _treated(image: Image) -> tuple[str, ...]:
    treatments = {
        "rotated": image.getexif().get(ORIENTATION, 1) not in (0, 1),
        "16-bit": image.mode in _DEEP,
        "CMYK": image.mode == "CMYK",
        "transparent": _transparent(image),
        "animated": getattr(image, "n_frames", 1) > 1,
    }
    return tuple(name for name, true in treatments.items() if true)


def _transparent(image: Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _scaled(image: Image, where: str) -> Image:
    """16 bits to 8, so that 0 stays 0 and 65535 becomes 255."""
    import numpy as np
    from PIL import Image as Images

    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise BadInputError(
            f"the image has values from {values.min()} to {values.max()}, which is not a 16-bit range", where=where
        )
    return Images.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
