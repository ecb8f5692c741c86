"""Parsers of yes/no answers. Which one made a number is part of its name."""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z']+")


def pope_official(answer: str) -> str:
    """POPE's rule: of the text up to the first full stop, commas removed, "no" if a blank-separated token is No, no or not.

    Everything else is "yes", the empty answer included.
    Source: Li et al., EMNLP 2023, evaluate.py.
    """
    first = answer.split(".", 1)[0].replace(",", "")
    return "no" if {"No", "no", "not"} & set(first.split(" ")) else "yes"


def strict(answer: str) -> str | None:
    """ "yes" or "no" if the answer begins with that word in any case; None if it cannot be read."""
    word = _WORD.search(answer.lower())
    return word.group() if word and word.group() in ("yes", "no") else None
