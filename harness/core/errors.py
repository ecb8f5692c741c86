"""The exception classes of the harness. Every message says what failed, the value seen, and how to fix it."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

from harness.core.redaction import redact


class HarnessError(Exception):
    """Anything that goes wrong for a reason the user can act on.

    Args:
        problem: what failed, with the value that was seen.
        where: file, record or option with the problem.
        remedy: what to do about it, preferably a command.
    """

    exit_code = 1

    def __init__(self, problem: str, *, where: str | None = None, remedy: str | None = None) -> None:
        # Messages repeat texts of endpoints, hubs and options, so secrets are removed.
        problem, where, remedy = redact(problem), where and redact(where), remedy and redact(remedy)
        self.problem, self.where, self.remedy = problem, where, remedy
        what = f"{problem} [{where}]" if where else problem
        super().__init__(f"{what}; {remedy}" if remedy else what)


class BadInputError(HarnessError):
    """The user's input (option, file, record) is at fault; the CLI exits with 2."""

    exit_code = 2


class UnknownNameError(BadInputError):
    """A name that no registry entry has; the message suggests the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
        super().__init__(f"unknown {kind} '{name}': {hint}", remedy="see `harness list`")
        self.name, self.near = name, near


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 1000
_REPR.maxlevel = 4
_REPR.maxdict = _REPR.maxlist = _REPR.maxtuple = _REPR.maxset = 8


def shown(value: Any, most: int = 80) -> str:
    """The beginning of a value for a message, as Python's repr (so without control characters)."""
    try:
        text = _REPR.repr(value)
    except ValueError:  # an integer with more digits than Python converts
        text = f"a {type(value).__name__} of thousands of digits"
    # Halves of characters and characters that no terminal shows are escaped by repr; the rest is as it is.
    return text if len(text) <= most else f"{text[: most - 4]}...{text[-1]}"
