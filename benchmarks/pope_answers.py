"""Which of POPE's questions a row of another tool's answers belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

from benchmarks.answer_files import AnswerSet, ByPicture, asked, in_order, picture_of, same_question
from benchmarks.answers import AnswerRow, identity
from harness.core.errors import BadInputError, shown
from harness.core.types import Item

SPLITS = ("random", "popular", "adversarial")
_IDS = "give every row its question_id, and its split as category (random, popular or adversarial)"


def split_in_name(path: Path) -> str | None:
    """The split that a file's name has as a word, as `coco_pope_random.json` does; None if it has none.

    Raises:
        BadInputError: the name has several.
    """
    words = re.split(r"[^a-z]+", path.name.lower())
    splits = [name for name in SPLITS if name in words]
    if len(splits) > 1:
        raise BadInputError(
            f"the file's name has several splits: {' and '.join(splits)}",
            where=str(path),
            remedy="rename it after the one split that it has (random.jsonl); or remove all from the name of a file of several splits",
        )
    return splits[0] if splits else None


def match(rows: Sequence[AnswerRow], path: Path, answers: AnswerSet, split: str | None = None) -> None:
    """Add the rows of a file to the answers.

    Rows with `question_id` belong to the split that they name as `category`, else to the one in the file's name, or to the only one there
    is. LLaVA numbers the questions of all splits on, so its rows are matched in order, question by question. Rows without an id are
    matched by picture and question (the same question about the same picture is one question in all splits), or else in order.

    Args:
        rows: of one file.
        path: the file.
        answers: get them.
        split: the only split that is asked for.

    Raises:
        BadInputError: it is not clear which questions the rows answer.
    """
    if not rows:
        return
    splits = {name: [item for item in answers.items if item.reference["split"] == name] for name in SPLITS}
    splits = {name: items for name, items in splits.items() if items}
    labelled = all("question_id" in row.doc and row.doc.get("category") in SPLITS for row in rows)  # needs no name
    named = split or (None if labelled else split_in_name(path)) or (next(iter(splits)) if len(splits) == 1 else None)
    if any("question_id" in row.doc for row in rows):
        _by_id(rows, path, answers, splits, named)
    elif all(picture_of(row) is not None and asked(row) is not None for row in rows):
        _by_picture(rows, answers)
    elif named is not None:
        _one_split(rows, path, answers, splits.get(named, []))
    else:
        fitting = [items for items in splits.values() if in_order(items, rows)]
        if len(fitting) != 1:
            raise BadInputError(
                f"the {len(rows)} answers have no question_id, and fit the questions of {len(fitting)} splits in order",
                where=str(path),
                remedy=f"name the file after its split (random.jsonl), one file a split; or {_IDS}",
            )
        _one_split(rows, path, answers, fitting[0])


def _by_id(
    rows: Sequence[AnswerRow],
    path: Path,
    answers: AnswerSet,
    splits: dict[str, list[Item]],
    named: str | None,
) -> None:
    if named is None and not all(row.doc.get("category") in SPLITS for row in rows):
        _all_splits(rows, path, answers, splits)
        return
    for row in rows:
        own = row.doc["category"] if row.doc.get("category") in SPLITS else named
        number = identity(row.doc, "question_id", row.where)
        answers.add_asked(f"{own}/{number}", row, f"question {number}", by_picture=True)


def _all_splits(rows: Sequence[AnswerRow], path: Path, answers: AnswerSet, splits: dict[str, list[Item]]) -> None:
    """Rows that are numbered through all splits, in some order of the splits; every row must contain its question."""
    wanted = sum(len(items) for items in splits.values())
    if len(rows) == wanted and all(asked(row) is not None for row in rows):
        for order in permutations(splits.values()):
            items = [item for own in order for item in own]
            if in_order(items, rows):
                for item, row in zip(items, rows, strict=True):
                    answers.add(item.id, row)
                return
    raise BadInputError(
        f"it is not clear which splits these {len(rows)} answers belong to: the rows do not name them, nor does the file, and they are not "
        f"the {wanted} questions of {', '.join(splits)} in order",
        where=str(path),
        remedy=f"name the file after its split (random.jsonl), one file a split; or {_IDS}",
    )


def _by_picture(rows: Sequence[AnswerRow], answers: AnswerSet) -> None:
    places = ByPicture(answers.items)
    for row in rows:
        items = places.find(row)
        category = row.doc.get("category")
        if isinstance(category, str) and (own := {part.strip() for part in category.split(",")} & {*SPLITS}):
            items = [item for item in items if item.reference["split"] in own]
        if not items:
            raise BadInputError(
                f"there is no question {shown(asked(row))} about the picture {shown(picture_of(row))}",
                where=row.where,
                remedy="give the answers to this suite's questions",
            )
        for item in items:
            answers.add(item.id, row)


def _one_split(rows: Sequence[AnswerRow], path: Path, answers: AnswerSet, items: Sequence[Item]) -> None:
    """The answers of a file without ids, which are matched to the questions by position."""
    if len(rows) != len(items):
        raise BadInputError(
            f"the responses have no question_id, so there must be one per question, but {len(rows)} are not {len(items)}",
            where=str(path),
            remedy="answer all questions in order, or give every row its question_id",
        )
    for item, row in zip(items, rows, strict=True):
        question = asked(row)
        if question is not None and not same_question(item.prompt, question):
            raise BadInputError(
                f"the responses have no question_id, and the question of this one is {shown(question)}, not {shown(item.prompt)}",
                where=row.where,
                remedy="put the responses in the order of the questions, or give every row its question_id",
            )
        answers.add(item.id, row)
