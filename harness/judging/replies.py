"""Removing reasoning from a model's reply before it is parsed."""

from __future__ import annotations

import re

_OPENED = re.compile(r"<(think|thinking|thought|reasoning)>", re.IGNORECASE)
_CLOSED = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)


def spoken(text: str) -> str:
    """The text after a model's reasoning; "" if the reasoning was started and not ended.

    Many templates write the opening mark into the prompt, so that only `</think>` is in the reply.
    """
    if "<" not in text:
        return text
    behind = 0
    for found in _CLOSED.finditer(text):
        behind = found.end()
    opened = _OPENED.search(text, behind)
    return text[behind : opened.start()] if opened else text[behind:]


class UnreadableError(ValueError):
    """A reply has no unambiguous verdict; the message is the reason, as the end of "it cannot be read: ..."."""
