"""The interface of formats of preference data: recognising records, and extracting their values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from aligners.preferences.cells import SourceCell
from harness.core.errors import shown as _shown
from harness.core.types import Turn

Record = Mapping[str, Any]
_SHOWN = 60
COMMON = frozenset(
    {"id", "idx", "rejected_image", "rejected_images", "chosen_spans", "rejected_spans", "objects", "image", "images"}
    | {"ranked_images", "standard_response"}
    | {"earlier_turns", "shared_context", "responses_end", "example_weight", "chosen_weights", "rejected_weights"}
)
"""Columns with the same meaning in every format."""
PROVENANCE = frozenset({"source", "ds_name", "origin_dataset", "origin_split", "image_path"})
"""Columns about the origin of a record."""
MADE = frozenset(
    {
        "made",
        "keywords",
        "boxes",
        "scores",
        "mask",
        "region_source",
        "detector",
        "segmenter",
        "corruption",
        "step",
        "schedule",
        "scale",
        "strength",
        "levels",
        "seed",
    }
)
"""Columns of a set of rejected images (`harness data corrupt`) about how they were made; training does not read them."""
MADE_BY_US = frozenset({"made", "region_source", "corruption"})
"""Those that every set of ours has."""
GENERATED = frozenset(
    {
        "judge",
        "model",
        "chosen_score",
        "rejected_score",
        "chosen_why",
        "rejected_why",
        "chosen_sample",
        "rejected_sample",
    }
)
"""Columns of a set of generated pairs (`harness data generate`) about their origin; training does not read them."""
PROMPTS = ("prompt", "question", "instruction", "query", "messages", "conversations")
"""Columns that contain the prompt in some format. If a file has two of them, the prompt is ambiguous."""
TURNS = ("system", "history", "earlier_turns")
"""Columns with turns before the prompt."""
UNSAID = {
    "system": "a system prompt",
    "history": "earlier turns",
    "tools": "tools",
    "videos": "videos",
    "video": "a video",
    "audios": "sounds",
    "audio": "a sound",
    "chosen_image": "a separate image for the chosen answer",
    "chosen_images": "separate images for the chosen answer",
    "rejected_messages": "a separate conversation for the rejected answer",
}
"""Columns that change the meaning of a preference, and that an example cannot represent."""


class BadRecordError(Exception):
    """A record that cannot be used; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Said:
    """The values of a record, of which only the form has been checked.

    Attributes:
        prompt: the user's last turn; it may still contain a placeholder of the image.
        chosen: the preferred response.
        rejected: the other response.
        image: the image as in the record: a path, bytes, {bytes, path}, base64, or a cell with one of these.
        source: the data set that the record was taken from.
        history: the turns before the prompt; they may contain the placeholder, too.
        image_in_prompt: whether the prompt is a message that has an image part.
    """

    prompt: Any
    chosen: Any
    rejected: Any
    image: Any
    source: Any = None
    history: tuple[Turn, ...] = ()
    image_in_prompt: bool = False


class Format(ABC):
    """A format. If a file next to the data describes it, `for_file` returns another object."""

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[str]
    """The columns that identify it, as text."""
    columns_read: frozenset[str]
    """The columns that it reads besides `COMMON`."""

    def for_file(self, file: Path) -> Format:
        """The format with this file's column names."""
        return self

    def for_columns(self, sample: Record) -> Format:
        """The format for a file with these columns, which it recognises."""
        return self

    @abstractmethod
    def recognises(self, sample: Record) -> bool:
        """Whether the columns are this format's. `sample` has every column, with its first value that is not null."""

    @abstractmethod
    def said(self, record: Record) -> Said:
        """The record's values.

        Raises:
            BadRecordError: it does not have the format's form.
        """

    def taken(self, sample: Record) -> Mapping[str, str]:
        """ "prompt", "chosen" and "rejected" -> the column that each is taken from, for a file with these columns."""
        return {name: name for name in ("prompt", "chosen", "rejected")}

    def pairs(self, record: Record) -> list[Said]:
        """The record's pairs: one, unless it ranks several answers.

        Raises:
            BadRecordError: as `said`.
        """
        return [self.said(record)]

    @property
    def reads(self) -> frozenset[str]:
        """All columns that it reads."""
        return self.columns_read | COMMON


def is_text(sample: Record, *names: str) -> bool:
    """Whether all these columns hold text."""
    return all(isinstance(sample.get(name), str) for name in names)


def has_image(sample: Record) -> bool:
    """Whether there is a column with an image."""
    return sample.get("images") is not None or sample.get("image") is not None


def image_of(record: Record) -> Any:
    """The record's image, from `images` or `image`.

    Raises:
        BadRecordError: both have a value, so it is ambiguous which to use.
    """
    images, image = record.get("images"), record.get("image")
    if says_something(images) and says_something(image):
        raise BadRecordError(
            "the record has both 'image' and 'images'; choose one: --columns image=images, or image=image"
        )
    return images if images is not None and not (says_something(image) and not says_something(images)) else image


def says_something(value: Any) -> bool:
    """Whether a value is not empty: empty are null, blanks, and lists and objects of these."""
    if isinstance(value, SourceCell):
        value = value.checked()
    if value is None or value == b"":
        return False
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, Mapping):
        return any(says_something(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return any(says_something(one) for one in value)
    return True


def single(value: Any, what: str = "images") -> Any:
    """The only element of a list; any other value as it is.

    Raises:
        BadRecordError: there are more, or none.
    """
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise BadRecordError(f"the record has {len(value)} {what}; a prompt can have only one")
    return value[0]


def shown(value: Any) -> str:
    """The beginning of a value, for a message."""
    return (
        (value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...") if isinstance(value, str) else _shown(value, _SHOWN)
    )
