"""The few dataclasses that travel the road. No torch here, no logic beyond what their fields mean."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import BadInputError
from harness.files import sha256_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

Span = tuple[int, int]
"""Half-open character range [start, end) of a text."""

MAX_PIXELS = 178_956_970
"""Larger images are refused as decompression bombs (Pillow's own warning bound)."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that is opened when it is needed: a file, or encoded bytes (PNG, JPEG) in memory.

    Exactly one of `path` and `data` is set. `name` is what errors call it.
    """

    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    name: str = ""

    def read(self) -> bytes:
        """The encoded bytes.

        Raises:
            BadInputError: the file does not exist or cannot be read.
        """
        if self.data is not None:
            return self.data
        assert self.path is not None
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise BadInputError(f"the image cannot be read: {error.strerror}", where=str(self.path)) from None

    def open(self) -> Image:
        """Decode to an RGB image, EXIF rotation applied.

        Raises:
            BadInputError: it does not decode, is truncated, or has too many pixels.
        """
        from PIL import Image, ImageOps, UnidentifiedImageError

        where = self.name or str(self.path or "image in memory")
        try:
            image = Image.open(io.BytesIO(self.read()))
            if image.width * image.height > MAX_PIXELS:
                raise BadInputError(
                    f"the image has {image.width}x{image.height} pixels, more than {MAX_PIXELS}", where=where
                )
            return ImageOps.exif_transpose(image).convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadInputError(f"the image does not decode: {error}", where=where) from None

    def fingerprint(self) -> str:
        """SHA-256 of the encoded bytes."""
        return sha256_bytes(self.read())


@dataclass(frozen=True, slots=True)
class Region:
    """A named part of an image: `box` is (left, top, right, bottom) in pixels of the original image."""

    label: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """One preference: an image, a prompt, a chosen and a rejected response.

    Images and responses are named sets, and a branch is any pair of names (METHODS: SymMPO compares five).
    `images` always has "original", `responses` always "chosen" and "rejected". Immutable: an aligner's
    `prepare` returns changed copies (`dataclasses.replace`).
    """

    id: str
    prompt: str
    images: Mapping[str, ImageRef]
    responses: Mapping[str, str]
    corrections: Mapping[str, tuple[Span, ...]] | None = None
    """Per response name, the character spans that were corrected; None where the data set gives none."""
    regions: tuple[Region, ...] = ()
    """Known objects of the original image, where the data set gives them."""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a benchmark."""

    id: str
    prompt: str
    image: ImageRef
    group: str
    """The image it belongs to: the cluster that is resampled for intervals."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """Whatever its benchmark needs to score the answer (JSON-able)."""


FinishReason = Literal["stop", "length", "unknown"]


@dataclass(frozen=True, slots=True)
class Response:
    """What a checkpoint said to one item."""

    item_id: str
    text: str
    finish_reason: FinishReason = "unknown"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """A piece of a response with a verdict, e.g. a mentioned object.

    `verdict` is "correct", "hallucinated", "missed" (in the reference, not in the response; no span) or "unjudged".
    """

    text: str
    verdict: Literal["correct", "hallucinated", "missed", "unjudged"]
    label: str = ""
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class SampleScore:
    """One item's counts (numerators and denominators, never ratios) and the evidence for them.

    `unscored` holds the reason where no verdict could be had: then `counts` is empty and the item
    is counted as unscored, never as 0.
    """

    item_id: str
    group: str
    counts: Mapping[str, float]
    evidence: tuple[Evidence, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    unscored: str | None = None


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What a metric is, before it has a value. `unit` "%" means: value is a fraction, shown times 100."""

    id: str
    title: str
    higher_is_better: bool | None
    """None: neither direction is better (mean length, yes-ratio)."""
    unit: Literal["%", "words", "points", "count"] = "%"
    headline: bool = False
    """Shown in the leaderboard by default."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A value with its interval. `value` is None where it is undefined (0/0), never NaN."""

    id: str
    value: float | None
    ci: tuple[float, float] | None
    n: int
    official: str | None = None
    """The text that the official script prints for it, where it prints one."""
