"""English word forms that a lemma table and a tokenizer that splits at hyphens do not handle; only for our own extraction."""

from __future__ import annotations

import re
from typing import Any

CHARACTERS = str.maketrans(
    dict.fromkeys(";|&+@\u200b\u200c\u200d\u2060\ufeff", " ") | dict.fromkeys("\u2010\u2011\u00ad\u2013_", "-")
)
"""Replacement of other punctuation and hyphens by usual ones; every character keeps its position."""
NUMBERS = re.compile(
    r"\d+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|single|double|triple|twin|multi|several|half"
)
_DOTTED = re.compile(r"(?:[a-z]\.)+[a-z]?")


def plurals(word: str) -> set[str]:
    """The possible plurals of a noun by its ending: "calf" gives "calves" and "calfs"."""
    forms = {f"{word}s"}
    if word.endswith(("s", "x", "z", "ch", "sh")):
        forms = {f"{word}es"}
    elif word.endswith("o"):
        forms.add(f"{word}es")
    elif re.search(r"[^aeiou]y$", word):
        forms = {f"{word[:-1]}ies"}
    elif word.endswith(("f", "fe")):
        forms.add(f"{word.removesuffix('e')[:-1]}ves")
    return forms


def singulars(word: str) -> list[str]:
    """Possible singulars of a word."""
    stems = [word[: -len(end)] + new for end, new in _ENDINGS if word.endswith(end)]
    return [stem for stem in stems if len(stem) > 1 and word in plurals(stem)]


_ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"))


def plain(word: str) -> str:
    """A word without the full stops of an abbreviation ("t.v." is "tv") and without hyphens around it ("-dog" in a list)."""
    if "-" in word:
        return word.strip("-") or word
    return word.replace(".", "") if "." in word and _DOTTED.fullmatch(word) else word


def chains(doc: Any) -> list[list[int]]:
    """Token positions of the parts of every hyphenated word in a spaCy document: "a bear-shaped toy" has [[1, 3]]."""
    places: list[list[int]] = []
    for hyphen in (token for token in doc if token.text == "-"):
        before, after = hyphen.i - 1, hyphen.i + 1
        if before < 0 or after >= len(doc) or doc[before].whitespace_ or hyphen.whitespace_:
            continue
        if not (doc[before].text[-1:].isalnum() and doc[after].text[:1].isalnum()):
            continue
        if places and places[-1][-1] == before:
            places[-1].append(after)
        else:
            places.append([before, after])
    return places
