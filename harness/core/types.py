"""Dataclasses that the whole pipeline shares. They do not import torch, and contain no logic beyond their fields."""

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
WeightedSpan = tuple[int, int, float]
"""The same with a weight: (start, end, weight)."""


class ImageSource(Protocol):
    """The source of encoded bytes that are neither a file nor in memory, such as a cell of a Parquet file."""

    def read(self) -> bytes:
        """The encoded bytes.

        Raises:
            BadInputError: the bytes cannot be read.
        """
        ...


@runtime_checkable
class SizedImageSource(ImageSource, Protocol):
    """A source that knows the size without reading the bytes, such as a picture that is made when it is read."""

    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        ...


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A reference to an image, opened when needed: a file, encoded bytes (PNG, JPEG) in memory, or a place in a larger file.

    Images are compared and looked up by `fingerprint`, which copies of the reference share, also in other processes.

    Attributes:
        path, data, source: exactly one of them is set.
        name: the name in error messages.
        digest: SHA-256 of the bytes, if already known, so that they are not read again. For a picture that is made when it is read,
            a hash of everything that it is made from.
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
        """Width and height of the opened image in pixels; for a JPEG, only the header is read.

        Raises:
            BadInputError: as for `open`, as far as the header shows.
        """
        if isinstance(self.source, SizedImageSource):
            return self.source.size()
        return images.size(self.read(), self._where)

    def facts(self) -> images.ImageFacts:
        """The size, and the changes that decoding makes. All bytes are read, and not kept in memory.

        Raises:
            BadInputError: as for `open`.
        """
        return images.look(self.read(), self._where)

    def fingerprint(self) -> str:
        """SHA-256 of the encoded bytes, which identifies the image. Computed once; copies of the reference keep it.

        Raises:
            BadInputError: as for `read`.
        """
        if not self.digest:
            object.__setattr__(
                self, "digest", sha256_bytes(self.read())
            )  # adds no information: it follows from the bytes
        return self.digest

    @property
    def absent(self) -> bool:
        """Whether there are no bytes: the question is asked without an image, or its image is not needed for scoring."""
        return self.path is None and self.data is None and self.source is None

    @property
    def _where(self) -> str:
        return self.name or str(self.path or "image in memory")


NO_IMAGE = ImageRef(name="no image", digest=sha256_bytes(b"no image"))
"""The image of an item that is asked without one."""


@dataclass(frozen=True, slots=True)
class Region:
    """A named part of an image: `box` is (left, top, right, bottom) in pixels of the original image."""

    label: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of a conversation before the prompt; `has_image` says that the image belongs to it (a user's turn)."""

    role: Literal["system", "user", "assistant"]
    text: str
    has_image: bool = False


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """One preference: an image, a prompt, a chosen and a rejected response.

    Images and responses have names, and a branch is a pair of names (SymMPO compares five branches).
    `images` always contains "original", `responses` always "chosen" and "rejected". A rejected image is named "rejected"; those of a list
    of rising strength "rejected_1", "rejected_2", ... Examples are immutable: an aligner's `prepare` returns changed copies
    (`dataclasses.replace`).
    """

    id: str
    prompt: str
    images: Mapping[str, ImageRef]
    responses: Mapping[str, str]
    corrections: Mapping[str, tuple[Span, ...]] | None = None
    """Response name -> character spans that were corrected; None if the data set has none."""
    regions: tuple[Region, ...] = ()
    """Known objects in the original image, if the data set has them."""
    source: str = ""
    context: str = ""
    """The beginning of the answer, which all responses continue. The model sees it, and no loss counts it."""
    ends: bool = True
    """Whether the responses are whole: False if they are cut, so that no end token follows them."""
    weight: float = 1.0
    """Factor of the example's loss."""
    token_weights: Mapping[str, tuple[WeightedSpan, ...]] = field(default_factory=dict)
    """Response name -> weights of its characters; 1 for the others. For methods that read them (`aligners.base.Needs.WEIGHTS`)."""
    history: tuple[Turn, ...] = ()
    """The turns before the prompt: a system turn or none, then questions and answers. The image belongs to the prompt, unless one of them
    has it. The model sees them, and no loss counts them."""

    def texts(self) -> dict[str, str]:
        """All texts, by their names in messages."""
        turns = {f"turn {number} ({turn.role})": turn.text for number, turn in enumerate(self.history, 1)}
        context = {"the context": self.context} if self.context else {}
        responses = {f"the {name} answer": text for name, text in self.responses.items()}
        return {**turns, "the prompt": self.prompt, **context, **responses}

    def conversation(self) -> str:
        """The prompt for a reader: with the earlier turns above it, each behind its role, if there are any."""
        if not self.history:
            return self.prompt
        turns = (*self.history, Turn("user", self.prompt))
        return "\n".join(f"{turn.role}: {turn.text}" for turn in turns)

    def whole(self, response: str) -> str:
        """The answer with this response: the context and what continues it, with a blank between them if neither has one."""
        text = self.responses[response]
        if not self.context or self.context[-1].isspace() or text[:1].isspace():
            return self.context + text
        return f"{self.context} {text}"


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a benchmark."""

    id: str
    prompt: str
    image: ImageRef
    """`NO_IMAGE` for a question that is asked without an image."""
    group: str
    """The cluster for resampling, normally the image."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """What the benchmark needs to score the answer; serialisable as JSON."""
    choices: tuple[str, ...] = ()
    """The answers whose likelihoods are compared; the likeliest is the answer. (): the model writes its answer."""


FinishReason = Literal["stop", "length", "unknown"]


@dataclass(frozen=True, slots=True)
class Response:
    """A checkpoint's answer to one item.

    `refusal` contains the model's words if it declined to answer (an endpoint's `refusal` field, or its content filter). Then `text`
    is not an answer, and the item is unscored for that reason. An empty text without a refusal is an empty answer.
    """

    item_id: str
    text: str
    finish_reason: FinishReason = "unknown"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """A part of a response with a verdict, such as a mentioned object.

    `verdict` is "correct", "hallucinated", "missed" (in the reference but not in the response, so without a span) or "unjudged".
    """

    text: str
    verdict: Literal["correct", "hallucinated", "missed", "unjudged"]
    label: str = ""
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class SampleScore:
    """One item's counts (numerators and denominators, never ratios) and the evidence for them.

    `unscored` contains the reason if there is no verdict. Then `counts` is empty and the item
    counts as unscored, never as 0.
    """

    item_id: str
    group: str
    counts: Mapping[str, float]
    evidence: tuple[Evidence, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    unscored: str | None = None


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """The definition of a metric. The unit "%" means that the value is a fraction, which is displayed times 100."""

    id: str
    title: str
    higher_is_better: bool | None
    """None if neither direction is better (mean length, yes-ratio)."""
    unit: Literal["%", "words", "points", "count"] = "%"
    headline: bool = False
    """Shown in the leaderboard by default."""
    kind: Literal["rate", "score", "count", "diagnostic"] = "rate"
    """`diagnostic` is a property of the measurement, not of the checkpoint, so no row is marked as best."""
    invented_by: str | None = None
    """For a metric of how much is said (recall, length): the metric that measures hallucination in the same text. A checkpoint that no
    other beats in both is on the frontier."""
    group: str | None = None
    """The group that this metric belongs to, if it is not its suite's (`Benchmark.group`)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's value with its interval. `value` is None if it is undefined (0/0), never NaN."""

    id: str
    value: float | None
    ci: tuple[float, float] | None
    n: int
    official: str | None = None
    """The text that the official script prints for it, if any."""
