"""Answers that other tools gave to a suite's questions: which tool wrote a file, and which question each of its rows answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.answers import AnswerRow, PackedResponses, picture_number
from harness.core.errors import BadInputError, shown
from harness.core.tables import read_table
from harness.core.types import Item

_REFERENCES = ("answer", "response", "caption", "text")
"""Columns of VLMEvalKit's tables that contain the right answer or the question's text, since the model's answer is in `prediction`."""
_PICTURES = ("image_id", "image_source", "image_src", "image_path", "file_name", "filename", "image")
_QUESTIONS = ("question", "query", "prompt", "text")
_FORMS: Sequence[tuple[frozenset[str], str]] = (
    (frozenset({"model_prediction"}), "HallusionBench's results"),
    (frozenset({"model_answer"}), "MMHal-Bench's responses"),
    (frozenset({"question_id", "answer"}), "POPE's answers"),
    (frozenset({"question_id", "text"}), "LLaVA's answers"),
    (frozenset({"image_id", "caption"}), "COCO's captions"),
    (frozenset({"image_id", "text"}), "Object HalBench's answers"),
    (frozenset({"image_id", "answer"}), "Object HalBench's answers"),
    (frozenset({"question", "answer"}), "POPE's answers in the order of the questions"),
    (frozenset({"id", "response"}), "AMBER's answers"),
)
"""Keys that all occur in a row -> the form's name; the first that fits counts."""


def form_of(record: Mapping[str, Any]) -> str:
    """The name of the form of a row, told by its keys; "" if it is none of the known ones."""
    keys = record.keys()
    if "filtered_resps" in keys or "resps" in keys:
        return "lmms-eval's samples"
    if {"item", "text"} <= keys:
        return "a run's answers (responses.jsonl)"
    if {"index", "prediction"} <= keys:
        return "VLMEvalKit's table"
    return next((name for needs, name in _FORMS if needs <= keys), "")


def answer_row(record: Mapping[str, Any], where: str, keys: tuple[str, ...]) -> AnswerRow:
    """A row of any known form.

    Raises:
        BadInputError: there is no answer, or it is ambiguous which of two values is the model's.
    """
    form = form_of(record)
    if form == "VLMEvalKit's table":
        row = AnswerRow({key: value for key, value in record.items() if key not in _REFERENCES}, where, ("prediction",))
        row.doc = record
    else:
        row = AnswerRow(record, where, keys)
    row.form = form or f"rows with the answer in {shown(row.key)}"
    return row


def answer_rows(path: Path, keys: tuple[str, ...]) -> list[AnswerRow]:
    """The rows of a file with answers: JSON lines, a JSON array, CSV, TSV, a spreadsheet or Parquet.

    Raises:
        BadInputError: the file is damaged or empty, or a row has no unambiguous answer.
    """
    rows = [answer_row(record, where, keys) for where, record in read_table(path, "answers")]
    if not rows:
        raise BadInputError("the file has no answers", where=str(path), remedy="name a file with answers")
    return rows


class AnswerSet:
    """The answers to the items of a suite, from one or several files; each item is answered once at most.

    Attributes:
        items: the suite's items, in their order.
        responses: item id -> response.
        forms: the forms of the files that were read.
        unknown: (id, place) of answers to no item.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.by_id = {item.id: item for item in items}
        self.responses = PackedResponses()
        self.forms: dict[str, None] = {}
        self.unknown: list[tuple[str, str]] = []
        self._places: dict[str, str] = {}

    def add(self, name: str, row: AnswerRow, what: str = "") -> None:
        """Take the answer of a row as the one to an item.

        Args:
            name: the item's id.
            row: the row.
            what: how the file calls the item, for messages; default: "item NAME".

        Raises:
            BadInputError: the item has an answer already.
        """
        if name in self._places:
            raise BadInputError(
                f"{what or f'item {shown(name)}'} is answered twice, first at {self._places[name]}",
                where=row.where,
                remedy="keep one of the two answers",
            )
        self._places[name] = row.where
        self.forms[row.form] = None
        if name not in self.by_id:
            self.unknown.append((name, row.where))
        self.responses.add(row.response(name))

    def add_asked(
        self, name: str, row: AnswerRow, what: str = "", *, question: str | None = None, by_picture: bool = False
    ) -> None:
        """As `add`, but if the row contains the question that was answered, it must be the item's.

        Args:
            name: the item's id.
            row: the row.
            what: as of `add`.
            question: the item's question without instructions; None: its prompt.
            by_picture: the suite's items are grouped by the picture's name, so a row's picture must be the item's, too.

        Raises:
            BadInputError: it is another question or picture, so the ids of this file are not the suite's.
        """
        item, said, picture = self.by_id.get(name), asked(row), picture_of(row)
        wanted = item.prompt if item is not None and question is None else question or ""
        problem = ""
        if item is not None and said is not None and not same_question(wanted, said):
            problem = f"asks {shown(wanted)}, but the answered question is {shown(said)}"
        elif item is not None and by_picture and picture is not None and picture_name(item.group) != picture:
            problem = f"is about the picture {shown(item.group)}, but the answer is about {shown(picture)}"
        if problem:
            raise BadInputError(
                f"{what or f'item {shown(name)}'} {problem}",
                where=row.where,
                remedy="the file numbers the questions in another way: give its rows the ids of this suite's data",
            )
        self.add(name, row, what)


def asked(row: AnswerRow) -> str | None:
    """The question that a row says was asked; None if it does not say."""
    for key in _QUESTIONS:
        value = row.doc.get(key)
        if isinstance(value, str) and value.strip() and not (key == row.key and row.doc is row.row):
            return value
    value = row.row.get("input")
    return value if isinstance(value, str) and value.strip() else None


def same_question(own: str, other: str) -> bool:
    """Whether two texts are one question, with or without an instruction before or behind it. An empty text is any question."""
    first, second = plain(own), plain(other)
    return first in second or second in first


def plain(text: str) -> str:
    """A question in lower case, with single blanks."""
    return " ".join(text.casefold().split())


def picture_of(row: AnswerRow) -> str | None:
    """The name of the picture that a row is about, without folder and ending; None if it does not say."""
    for key in _PICTURES:
        value = row.doc.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and 0 < len(value) < 1000:
            return picture_name(value)
    return None


def picture_name(name: str) -> str:
    """A picture's name without folder and ending; of COCO's names, only the number."""
    last = name.replace("\\", "/").rpartition("/")[2].strip()
    if (number := picture_number(last)) is not None:
        return str(number)
    stem, _, ending = last.rpartition(".")
    return stem if stem and ending.lower() in ("jpg", "jpeg", "png", "webp", "gif", "bmp") else last


class ByPicture:
    """Finds items by picture and question: what identifies a question where a tool has numbers of its own."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            self._items[picture_name(item.group)].append(item)

    def find(self, row: AnswerRow) -> list[Item]:
        """The items about the row's picture with the row's question; more than one if a suite asks the same in several splits."""
        picture, question = picture_of(row), asked(row)
        if picture is None or question is None:
            return []
        about = [item for item in self._items.get(picture, ()) if same_question(item.prompt, question)]
        same = [item for item in about if plain(item.prompt) == plain(question)]
        return same or about


def in_order(items: Sequence[Item], rows: Sequence[AnswerRow]) -> bool:
    """Whether rows without ids answer these items in order: as many of them, and no row names another question."""
    if len(items) != len(rows):
        return False
    questions = [asked(row) for row in rows]
    return all(
        question is None or same_question(item.prompt, question)
        for item, question in zip(items, questions, strict=True)
    )
