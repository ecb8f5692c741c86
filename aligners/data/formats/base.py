"""What a format of preference data is: how its records are recognised, and where they say what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

Record = Mapping[str, Any]
_SHOWN = 60


class BadRecordError(Exception):
    """A record that cannot be used; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a record says, before anything is checked but its form.

    Attributes:
        prompt: the user's turn; a placeholder of the image may still be in it.
        chosen: the preferred response.
        rejected: the other one.
        image: the image as the record has it: a path, bytes, {bytes, path}, base64, or a cell that holds one of these.
        rejected_image: the same for a second image, or None.
        id: the record's own name, which nothing else in the data may have; None where it has none.
        number: a number that the data set gives the record, not promised to be its alone.
        source: the data set that the record was taken from.
    """

    prompt: Any
    chosen: Any
    rejected: Any
    image: Any
    rejected_image: Any = None
    id: Any = None
    number: Any = None
    source: str = ""


class Format(ABC):
    """A format. One that is described by a file beside the data returns another object for that file (`for_file`)."""

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[str]
    """The columns it is recognised by, for people."""

    def for_file(self, file: Path) -> Format:
        """The format as it is to be read in this file."""
        return self

    @abstractmethod
    def recognises(self, sample: Record) -> bool:
        """Whether the columns are this format's. `sample` has every column, with its first value that is not null."""

    @abstractmethod
    def said(self, record: Record) -> Said:
        """What the record says.

        Raises:
            BadRecordError: it has another form than the format's.
        """


def is_text(sample: Record, *names: str) -> bool:
    """Whether all these columns hold text."""
    return all(isinstance(sample.get(name), str) for name in names)


def single(value: Any, what: str = "images") -> Any:
    """The only element of a list; any other value as it is.

    Raises:
        BadRecordError: there are more, or none.
    """
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise BadRecordError(f"the record has {len(value)} {what}; one is what a prompt can have here")
    return value[0]


def shown(value: Any) -> str:
    """The beginning of a value, for a message."""
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
