"""Reading values from untrusted files with a type check: a label must be a text, a count a whole number, or an error is raised.

    row = Fields(record, where="questions.jsonl:3")
    label, count = row.text("label"), row.integer("count", low=0)

Python accepts `"dog"` as a list of three words, `True` as 1, `float("nan")` as a number, and 1.9 as an index after `int()`; figures
would then be silently wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from harness.core.errors import BadInputError, shown

_KINDS = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    tuple: "a list",
    dict: "an object",
    type(None): "null",
    bytes: "bytes",
}


def kind_of(value: Any) -> str:
    """The JSON type of a value, as text."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")


class Fields:
    """A JSON object whose values are requested with their types.

    Every method raises a `BadInputError` that names key, value and place if the value has another type, or is missing (or null) without
    a `default`.
    """

    def __init__(self, value: Any, where: str, what: str = "record", prefix: str = "") -> None:
        """Begin.

        Args:
            value: what should be an object.
            where: file and line, for messages.
            what: what it is to the user, for messages.
            prefix: the path of keys that leads here.

        Raises:
            BadInputError: it is not an object.
        """
        self.where, self.what, self._prefix = where, what, prefix
        if not isinstance(value, Mapping):
            name = f"'{prefix.rstrip('.')}'" if prefix else f"the {what}"
            raise BadInputError(f"{name} is {kind_of(value)}, not an object: {shown(value)}", where=where)
        self.value = value

    def has(self, key: str) -> bool:
        """Whether the key exists with a value that is not null."""
        return self.value.get(key) is not None

    def refuse(self, key: str, wanted: str) -> NoReturn:
        """Raise the error that a value is not as expected."""
        value = self.value.get(key)
        name = shown(self._prefix + key, most=60)[1:-1]
        if key not in self.value:
            raise BadInputError(f"the {self.what} has no '{name}', which should be {wanted}", where=self.where)
        raise BadInputError(
            f"'{name}' is {kind_of(value)}, not {wanted}: {shown(value)}"
            if wanted.split()[0] in ("a", "an", "true")
            else f"'{name}' is {shown(value)}, not {wanted}",
            where=self.where,
            remedy=f"fix the {self.what}",
        )

    def text(self, key: str, default: str | None = None, *, empty: bool = True) -> str:
        """A text without lone surrogates. `empty`: whether it may be blank."""
        value = self._value(key, default)
        if not isinstance(value, str):
            self.refuse(key, "a text")
        if not _is_whole(value):
            self.refuse(key, "without lone surrogates (halves of characters)")
        if not empty and not value.strip():
            self.refuse(key, "a non-empty text")
        return value

    def choice(self, key: str, known: Sequence[str], default: str | None = None) -> str:
        """One of a few exact texts."""
        value = self._value(key, default)
        if not isinstance(value, str) or value not in known:
            self.refuse(key, f"one of {', '.join(known)}")
        return value

    def integer(self, key: str, default: int | None = None, *, low: int | None = None, high: int | None = None) -> int:
        """A whole number; 3.0 counts, because tables write integers in columns with empty cells that way. `low` and `high` are
        inclusive."""
        value = self._value(key, default)
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(key, "a whole number")
        self._within(key, value, low, high)
        return value

    def number(
        self, key: str, default: float | None = None, *, low: float | None = None, high: float | None = None
    ) -> float:
        """A finite number. `low` and `high` are inclusive."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.refuse(key, "a number")
        if not is_finite(value):
            self.refuse(key, "finite")
        self._within(key, value, low, high)
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            self.refuse(key, "true or false")
        return value

    def items(self, key: str, default: Sequence[Any] | None = None) -> Sequence[Any]:
        """A list; its items are of any type."""
        value = self._value(key, default)
        if not isinstance(value, (list, tuple)):
            self.refuse(key, "a list")
        return value

    def texts(self, key: str, default: Sequence[str] | None = None) -> list[str]:
        """A list of texts."""
        items = self.items(key, default)
        if any(not isinstance(one, str) or not _is_whole(one) for one in items):
            self.refuse(key, "a list of texts")
        return list(items)

    def numbers(self, key: str, default: Sequence[float] | None = None) -> list[float]:
        """A list of finite numbers."""
        items = self.items(key, default)
        if any(isinstance(one, bool) or not isinstance(one, (int, float)) or not is_finite(one) for one in items):
            self.refuse(key, "a list of finite numbers")
        return [float(one) for one in items]

    def fields(self, key: str) -> Fields:
        """An object in this one."""
        if not isinstance(self.value.get(key), Mapping):
            self.refuse(key, "an object")
        return Fields(self.value[key], self.where, self.what, f"{self._prefix}{key}.")

    def records(self, key: str, default: Sequence[Any] | None = None) -> Iterator[Fields]:
        """A list of objects."""
        for number, one in enumerate(self.items(key, default)):
            yield Fields(one, self.where, self.what, f"{self._prefix}{key}[{number}].")

    def _value(self, key: str, default: Any) -> Any:
        value = self.value.get(key)
        return default if value is None and default is not None else value

    def _within(self, key: str, value: float, low: float | None, high: float | None) -> None:
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
            self.refuse(key, bounds)


def is_finite(value: float) -> bool:
    """Whether a number is neither NaN nor infinite, nor a whole number that floating point cannot hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_whole(text: str) -> bool:
    """Whether a text can be encoded: lone surrogates, which JSON's escapes can produce, cannot."""
    return not any("\ud800" <= one <= "\udfff" for one in text) if not text.isascii() else True
