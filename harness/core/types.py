"""The few dataclasses that travel the road. No torch here, no logic beyond what their fields mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from harness.core import images
from harness.core.files import sha256_bytes
from harness.core.reading import read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

Span = tuple[int, int]
"""Half-open character range [start, end) of a text."""


class ImageSource(Protocol):
    """Where encoded bytes lie that are neither a file of their own nor in memory: a cell of a Parquet file, say."""

    def read(self) -> bytes:
        """The encoded bytes; a `BadInputError` where they cannot be had."""
        ...


@runtime_checkable
class SizedImageSource(ImageSource, Protocol):
    """One that knows the size without the bytes, as of a picture that is made only when it is read."""

    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        ...


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that is opened when it is needed: a file, encoded bytes (PNG, JPEG) in memory, or a place in a larger file.

    Exactly one of `path`, `data` and `source` is set. `name` is what errors call it. `digest` is the SHA-256 of the bytes
    where it is known already, so that nobody reads them again to ask for it; of a picture that is made as it is read, a hash of all that it
    is made from. Whoever looks an image up does so by
    `fingerprint`: a copy of the reference, in a process of its own even, is the same image, which `id` does not know.
    """

    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    name: str = ""
    source: ImageSource | None = field(default=None, repr=False)
    digest: str = field(default="", repr=False, compare=False)

    def read(self) -> bytes:
        """The encoded bytes.

        Raises:
            BadInputError: the file does not exist or cannot be read.
        """
        if self.data is not None:
            return self.data
        if self.source is not None:
            return self.source.read()
        assert self.path is not None
        return read_bytes(self.path, "image", images.MAX_BYTES)

    def open(self) -> Image:
        """Decode to an upright RGB image (`harness.core.images`).

        Raises:
            BadInputError: it does not decode, is truncated, or has too many pixels.
        """
        return images.decode(self.read(), self._where)

    def size(self) -> tuple[int, int]:
        """Width and height of what `open` gives, for a JPEG from the header alone.

        Raises:
            BadInputError: as `open`, as far as the header tells.
        """
        if isinstance(self.source, SizedImageSource):
            return self.source.size()
        return images.size(self.read(), self._where)

    def facts(self) -> images.ImageFacts:
        """Size and what decoding does to it; the bytes are read to their end and not kept.

        Raises:
            BadInputError: as `open`.
        """
        return images.look(self.read(), self._where)

    def fingerprint(self) -> str:
        """SHA-256 of the encoded bytes: what the image is. Read once; the reference and its copies remember it.

        Raises:
            BadInputError: as `read`.
        """
        if not self.digest:
            object.__setattr__(self, "digest", sha256_bytes(self.read()))  # says nothing new: it follows from the bytes
        return self.digest

    @property
    def _where(self) -> str:
        return self.name or str(self.path or "image in memory")


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
    """What a checkpoint said to one item.

    `refusal` is set where the model declined to answer (an endpoint's `refusal` field, or its content filter): its words. Then `text`
    is no answer, and the item is unscored with these words; an empty text without a refusal is an answer that says nothing.
    """

    item_id: str
    text: str
    finish_reason: FinishReason = "unknown"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    refusal: str | None = None


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
    kind: Literal["rate", "score", "count", "diagnostic"] = "rate"
    """A share, a grade, an amount; `diagnostic`: of the measurement rather than of the checkpoint, so that no row is best in it."""
    invented_by: str | None = None
    """Of a metric of how much is said (recall, length): the metric of what of it is invented. Neither is read without the other: a
    checkpoint that no other beats in both is on the frontier."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A value with its interval. `value` is None where it is undefined (0/0), never NaN."""

    id: str
    value: float | None
    ci: tuple[float, float] | None
    n: int
    official: str | None = None
    """The text that the official script prints for it, where it prints one."""
