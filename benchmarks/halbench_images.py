"""Object HalBench's pictures: files next to the questions, or base64 in the question's line."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import BadInputError, shown
from harness.core.inside import Folder
from harness.core.reading import row_at
from harness.core.typed import Fields
from harness.core.types import ImageRef

_LONGEST_NAME = 200
"""A longer text as image is base64."""


def image_of(row: Fields, place: int, questions: Path, images: Folder) -> ImageRef:
    """A question's image: a file in `images/`, or base64 in its line.

    Args:
        row: the question.
        place: byte offset of its line in `questions`, see `harness.core.reading.placed_rows`.
        questions: the file.
        images: the folder of the images.

    Raises:
        BadInputError: it is neither.
    """
    value = row.text("image", empty=False)
    if len(value) < _LONGEST_NAME and (images.root / value).is_file():
        return ImageRef(path=images.path(value, row.where), name=value)
    try:
        base64.b64decode(value, validate=True)
    except ValueError:
        raise BadInputError(
            f"the image {shown(value)} is neither a file in images/ nor base64", where=row.where
        ) from None
    return ImageRef(source=_LineImage(questions, place), name=str(row.value["image_id"]))


@dataclass(frozen=True, slots=True)
class _LineImage:
    """An image as base64 in its question's line, read on access (`harness.core.types.ImageSource`)."""

    questions: Path
    place: int

    def read(self) -> bytes:
        """The encoded bytes.

        Raises:
            BadInputError: the file has changed since its questions were read.
        """
        try:
            return base64.b64decode(row_at(self.questions, self.place)["image"], validate=True)
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise BadInputError(
                f"the image cannot be read again; its file may have changed: {error}", where=str(self.questions)
            ) from None
