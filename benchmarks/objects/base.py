"""What an extractor is: texts in, mentions of objects with class and character span out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from harness.core.types import Span


class Mention(NamedTuple):
    """An object that a text mentions: the word as the parser has it, its class, and where it stands."""

    word: str
    label: str
    span: Span | None


_CHUNK = re.compile(r"\S{1000,}")
_SURROGATE = re.compile("[\ud800-\udfff]")


def readable(text: str) -> str:
    """The text as spaCy can read it, with every character in its place.

    Halves of characters, which some JSON holds, become replacement characters. Of a thousand and more characters without a blank,
    which no sentence has and which take its tokenizer minutes, nothing is read.
    """
    return _CHUNK.sub(lambda found: "x" * len(found.group()), _SURROGATE.sub("\ufffd", text))


class Extractor(Protocol):
    """Finds the vocabulary's objects in texts."""

    def mentions(self, texts: Sequence[str]) -> list[list[Mention]]:
        """Per text its mentions in order, repeats kept."""

    def provenance(self) -> dict[str, Any]:
        """Versions of what parsed. JSON-able."""
