"""NLTK's sentences and word tokens, with the position of each token, fast enough for thousands of responses.

`nltk.word_tokenize` runs two dozen regular expressions over every sentence. In plain prose (letters and digits with at most inner
hyphens or apostrophes and one mark at the end, between blanks) none of them looks across a blank, and Punkt decides about a sentence end
by two adjacent words. So for such text NLTK gets each distinct word, and each distinct pair at a possible end, once, and the results are
cached. NLTK gets any other text as a whole.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

_PLAIN = re.compile(r"[A-Za-z0-9]+(?:[-'][A-Za-z0-9]+)*[,;:.!?]?")
_CHUNK = re.compile(r"\S+")
_BLANKS = re.compile(r"\s*")
_WINDOW = 1000
"""Number of characters in which a token is searched if it is not at the expected position."""
_ENDS = frozenset(".?!")
_QUOTES = ("``", "''")
"""What the tokenizer writes for a straight quotation mark."""


class Token(NamedTuple):
    """A token and its position in the text, [start, end); -1, -1 if it cannot be found."""

    text: str
    start: int
    end: int


def tokenize(text: str) -> list[Token]:
    """The tokens of `nltk.word_tokenize(text)`, in order."""
    plain = _plain(text) if text.isascii() else None
    if plain is not None:
        return plain
    from nltk import word_tokenize

    return _located(text, word_tokenize(text))


def _plain(text: str) -> list[Token] | None:
    """Tokens of a text of plain chunks; None if a chunk is not plain."""
    chunks = [(found.group(), found.start()) for found in _CHUNK.finditer(text)]
    tokens: list[Token] = []
    for place, (chunk, start) in enumerate(chunks, 1):
        last = place == len(chunks) or (chunk[-1] in _ENDS and _breaks(chunk, chunks[place][0]))
        parts = _chunk_tokens(chunk, last)
        if parts is None:
            return None
        tokens += [Token(word, start + first, start + end) for word, first, end in parts]
    return tokens


@functools.lru_cache(maxsize=1 << 17)
def _chunk_tokens(chunk: str, last: bool) -> tuple[Token, ...] | None:
    """NLTK's tokens of a chunk within a sentence, or at its end; None if it is not plain."""
    if not _PLAIN.fullmatch(chunk):
        return None
    words = _tools()[1].tokenize(f"a {chunk}" if last else f"a {chunk} a")
    return tuple(_located(chunk, words[1:] if last else words[1:-1]))


@functools.lru_cache(maxsize=1 << 17)
def _breaks(chunk: str, following: str) -> bool:
    """Whether Punkt ends a sentence between two chunks."""
    return bool(_tools()[0].text_contains_sentbreak(f"{chunk} {following}"))


@functools.cache
def _tools() -> tuple[Any, Any]:
    """Punkt's English model and the word tokenizer."""
    from nltk.tokenize import NLTKWordTokenizer, PunktTokenizer

    return PunktTokenizer("english"), NLTKWordTokenizer()


def _located(text: str, words: Sequence[str]) -> list[Token]:
    """Find each token after the previous one: at the next character that is not a blank, or a little further."""
    tokens: list[Token] = []
    after = 0
    for word in words:
        forms = (*_QUOTES, '"') if word in _QUOTES else (word,)
        next_ = _BLANKS.match(text, after).end()  # type: ignore[union-attr]
        place = next(((next_, len(form)) for form in forms if text.startswith(form, next_)), None)
        if place is None:
            places = [(found, len(form)) for form in forms if (found := text.find(form, after, next_ + _WINDOW)) >= 0]
            place = min(places, default=None)
        if place is None:
            tokens.append(Token(word, -1, -1))
            continue
        start, length = place
        after = start + length
        tokens.append(Token(word, start, after))
    return tokens
