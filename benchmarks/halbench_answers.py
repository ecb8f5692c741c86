"""Which image a description of another tool belongs to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.answer_files import AnswerSet, asked, in_order, picture_of
from benchmarks.answers import AnswerRow, ImageNames
from harness.core.errors import BadInputError, shown
from harness.core.types import Item


def match(rows: Sequence[AnswerRow], path: Path, answers: AnswerSet, notes: list[str]) -> None:
    """Add rows by image, several descriptions of one image in order; without names of images, in the order of the questions.

    Args:
        rows: of one file.
        path: the file.
        answers: get them.
        notes: get a sentence about what was not read literally.

    Raises:
        BadInputError: it is not clear which image a row describes.
    """
    named = [picture_of(row) for row in rows]
    if not any(named):
        _in_order(rows, path, answers)
        notes.append("the answers do not name their images: they were matched with the questions in order")
        return
    items: dict[str, list[Item]] = defaultdict(list)
    for item in answers.items:
        items[item.group].append(item)
    names = ImageNames(items)
    for row, picture in zip(rows, named, strict=True):
        image = names.find(picture) if picture is not None else None
        if image is None:
            raise BadInputError(
                "the row does not name its image, as other rows do"
                if picture is None
                else f"the image {shown(picture)} is not one of the {len(items)} of this suite's data",
                where=row.where,
                remedy="give the answers to this suite's questions, each with its image_id",
            )
        free = (item.id for item in items[image] if item.id not in answers.responses)
        answers.add(next(free, items[image][-1].id), row, f"image {image}")


def _in_order(rows: Sequence[AnswerRow], path: Path, answers: AnswerSet) -> None:
    """Rows that contain the suite's questions, which must not all be the same."""
    prompts = {item.prompt for item in answers.items}
    if any(asked(row) is None for row in rows) or not in_order(answers.items, rows) or len(prompts) == 1:
        raise BadInputError(
            f"these {len(rows)} answers do not name their images, and are not answers to {len(answers.items)} different questions in "
            "their order",
            where=str(path),
            remedy="give every row its image_id",
        )
    for item, row in zip(answers.items, rows, strict=True):
        answers.add(item.id, row)
