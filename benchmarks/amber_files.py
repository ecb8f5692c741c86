"""AMBER's files: annotations and associations, read strictly; and which query an answer of another tool belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.answer_files import AnswerSet, ByPicture, asked, picture_of
from benchmarks.answers import AnswerRow, whole
from benchmarks.yesno import yes_or_no
from harness.core.errors import BadInputError, shown
from harness.core.reading import read_json, read_records
from harness.core.typed import Fields

GENERATIVE = "generative"
PARTS = {
    "discriminative-hallucination": ("existence",),
    "discriminative-attribute-state": ("attribute", "state"),
    "discriminative-attribute-number": ("attribute", "number"),
    "discriminative-attribute-action": ("attribute", "action"),
    "discriminative-relation": ("relation",),
    "relation": ("relation",),
}
"""Question type -> the sections that it counts in, besides all discriminative questions."""


def read_annotations(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The annotations by position, which is their id minus one, and the number of truths in an unofficial spelling.

    Raises:
        BadInputError: an annotation has another form, an unknown type, or a wrong position.
    """
    rows: list[dict[str, Any]] = []
    odd = 0
    for place, (where, row) in enumerate(read_records(path, "annotations"), 1):
        fields = Fields(row, where, "annotation")
        if row.get("id") is not None and whole(row, "id", where, "annotation") != place:
            raise BadInputError(
                f"the annotation at position {place} has the id {row['id']}, but annotations are looked up by position",
                where=where,
                remedy="give all annotations, sorted by id",
            )
        kind = fields.choice("type", (GENERATIVE, *PARTS))
        if kind == GENERATIVE:
            rows.append({"type": kind, "truth": fields.texts("truth"), "hallu": fields.texts("hallu")})
            continue
        label = yes_or_no(fields, "truth")
        rows.append({"type": kind, "truth": label})
        if row["truth"] != label:
            odd += 1
            rows[-1]["official_truth"] = "no"
    return rows, odd


def read_associations(path: Path) -> dict[str, Any]:
    """The associations of every word, and the vocabulary: all words in them."""
    fields = Fields(read_json(path, "relations"), str(path), "relations")
    associations = {word: fields.texts(word) for word in fields.value}
    vocabulary = frozenset(associations) | {word for words in associations.values() for word in words}
    return {"associations": associations, "vocabulary": vocabulary}


def match(rows: Sequence[AnswerRow], answers: AnswerSet, notes: list[str]) -> None:
    """Add rows by their `id`, or by `question_id` with the question, or by picture and question; `notes` get a sentence about unusual keys.

    Raises:
        BadInputError: it is not clear which query a row answers.
    """
    places = ByPicture(answers.items)
    for row in rows:
        key = "id" if "id" in row.doc else "question_id"
        if key in row.doc and (key == "id" or asked(row) is not None):
            place = whole(row.doc, key, row.where)
            answers.add_asked(str(place), row, f"{key} {place}", by_picture=True)
            continue
        queries = places.find(row)
        if len(queries) != 1:
            raise BadInputError(
                f"the row has no id, and {len(queries)} queries are {shown(asked(row))} about the picture {shown(picture_of(row))}",
                where=row.where,
                remedy="give every row the id of its query",
            )
        answers.add(queries[0].id, row)
    if others := {row.key for row in rows} - {"response"}:
        notes.append(f"answers were read from {' and '.join(sorted(others))}")
