"""Reading responses of other tools: finding the answer in a row and its question, and storing many of them compactly.

Every suite has its own format, which its documentation names first. Other usual keys (LLaVA's `text`, COCO's `caption`) and the samples
that lmms-eval logs are also accepted, which is then reported.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from harness.core.errors import BadInputError, shown
from harness.core.typed import Fields
from harness.core.types import Response

_MODELS = ("prediction", "response", "answer", "caption")
"""Keys that contain a model's answer in one tool's files and the reference in another's."""
_LOGGED = ("filtered_resps", "resps")
"""Keys of the answer in lmms-eval's samples; the first existing one is used."""
_COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d+)(?:\.(?:jpe?g|png))?", re.IGNORECASE)


class AnswerRow:
    """One row of a file of responses: its answer and the values that identify the question."""

    def __init__(self, row: Mapping[str, Any], where: str, keys: tuple[str, ...]) -> None:
        """Find the answer.

        Args:
            row: the record.
            where: file and line, for messages.
            keys: keys of the answer: the suite's own, then other unambiguous ones.

        Raises:
            BadInputError: there is no answer, or it is ambiguous which of two values is the model's.
        """
        self.where, self.row = where, row
        self.doc: Mapping[str, Any] = row
        self.refusal: str | None = None
        self.form = ""
        key = next((key for key in keys if key in row), None)
        if key is None and any(name in row for name in _LOGGED):
            self.key, self.text = "lmms-eval's samples", _logged(row, where)
            self.doc = row["doc"] if isinstance(row.get("doc"), Mapping) else row
            return
        if key is None:
            raise BadInputError(
                f"the response has no '{keys[0]}'; its keys are {', '.join(map(shown, list(row)[:8])) or 'none'}",
                where=where,
                remedy=f"rename the answer's key to '{keys[0]}' ({', '.join(keys[1:])} and lmms-eval's samples are accepted, too)",
            )
        for other in _MODELS:
            if other != key and other in row and row[other] != row[key]:
                raise BadInputError(
                    f"the row has '{key}' and '{other}', and it is not clear which of them is the model's answer",
                    where=where,
                    remedy="keep only the model's answer in the rows, e.g. with jq 'del(.KEY)'",
                )
        self.key, value = key, row[key]
        if value is None and isinstance(row.get("refusal"), str):
            self.refusal = row["refusal"]
        self.text = _text(value)

    def response(self, name: str) -> Response:
        """Make the response to an item."""
        return Response(name, self.text, refusal=self.refusal)


def _text(value: Any) -> str:
    """A text unchanged; "" for null; for a number or a list, its JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _logged(row: Mapping[str, Any], where: str) -> str:
    """The one answer of an lmms-eval sample."""
    value = next(row[name] for name in _LOGGED if name in row)
    for _ in range(2):  # resps has a list for every request, each a list of answers
        if isinstance(value, list):
            if len(value) != 1:
                raise BadInputError(
                    f"the sample has {len(value)} answers, but only one can be scored",
                    where=where,
                    remedy="keep one of them",
                )
            value = value[0]
    if not isinstance(value, str):
        raise BadInputError(f"the sample's answer is not a text: {shown(value)}", where=where)
    return value


def identity(row: Mapping[str, Any], key: str, where: str, what: str = "response") -> str:
    """An id as text, from a non-empty text or a whole number.

    Raises:
        BadInputError: it is missing or of another kind: for example 1.9 or true.
    """
    value = row.get(key)
    if isinstance(value, str) and value.strip():
        return Fields(row, where, what).text(key).strip()
    fields = Fields(row, where, what)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(fields.integer(key, low=-(2**63), high=2**63))
    fields.refuse(key, "a text or a whole number")


def whole(row: Mapping[str, Any], key: str, where: str, what: str = "response") -> int:
    """An id that is a whole number, or a text with one.

    Raises:
        BadInputError: it is missing or something else.
    """
    text = identity(row, key, where, what)
    if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        Fields(row, where, what).refuse(key, "a whole number")
    return int(text)


class ImageNames:
    """Finds annotated images by the names that COCO's tools use.

    42, "000000000042" and "COCO_val2014_000000000042.jpg" are one image.
    """

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = names
        self._numbers: dict[int, str | None] | None = None

    def find(self, name: str) -> str | None:
        """The annotated image with this name; None if there is none, or the number is ambiguous."""
        if name in self._names:
            return name
        if (number := picture_number(name)) is None:
            return None
        if (plain := str(number)) in self._names:
            return plain
        if self._numbers is None:
            self._numbers = {}
            for known in self._names:
                if (one := picture_number(known)) is not None:
                    self._numbers[one] = None if one in self._numbers else known
        return self._numbers.get(number)


def picture_number(name: str) -> int | None:
    """The number in a name of COCO's tools; None if the name has another form."""
    found = _COCO_NAME.fullmatch(name)
    return int(found.group(1)) if found and len(found.group(1)) <= 18 else None


class PackedResponses(Mapping[str, Response]):
    """Responses by item, compressed in blocks: a file of a hundred megabytes takes a third of that, and is decompressed block by block.

    Access in the order of insertion decompresses every block once.
    """

    _SIZE = 256

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._blocks: list[bytes] = []
        self._open: list[tuple[str, str | None]] = []
        self._unpacked: tuple[int, list[tuple[str, str | None]]] = (-1, [])

    def add(self, response: Response) -> None:
        """Store text and refusal of a response; its item must be new."""
        self._places[response.item_id] = len(self._places)
        self._open.append((response.text, response.refusal))
        if len(self._open) == self._SIZE:
            self._blocks.append(zlib.compress(json.dumps(self._open).encode("ascii"), 1))
            self._open = []

    def __getitem__(self, name: str) -> Response:
        block, place = divmod(self._places[name], self._SIZE)
        if block == len(self._blocks):
            text, refusal = self._open[place]
        else:
            if self._unpacked[0] != block:
                self._unpacked = (block, json.loads(zlib.decompress(self._blocks[block])))
            text, refusal = self._unpacked[1][place]
        return Response(name, text, refusal=refusal)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
