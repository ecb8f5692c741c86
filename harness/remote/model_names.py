"""Whether a reply's model is the one that was requested: names are parsed, not compared by prefix."""

from __future__ import annotations

import re

UNNAMED = "unnamed"
"""Placeholder if an endpoint does not report the model's name."""
_DATE = re.compile(r"[-@](\d{4})-?(\d{2})-?(\d{2})$")
_SHORT_DATE = re.compile(r"-(\d\d)(\d\d)(\d\d)?$")
_YEAR = re.compile(r"(-(?P<month>\d\d))?-20[23]\d$")
_NUMBERED = re.compile(r"-0\d\d$")
_ALIAS = re.compile(r"[-:]latest$")


def undated(name: str) -> str:
    """A model's name without the date or number of a snapshot: `gpt-4o-2024-08-06`, `gpt-4-0613` (month and day), `mistral-large-2407`
    (year and month), `command-r-08-2024`, `gemini-1.5-pro-002`; and without `-latest`, which stands for the newest of them."""
    if date := _DATE.search(name):
        return name[: date.start()] if _is_day(date[2], date[3]) else name
    if (date := _YEAR.search(name)) and 1 <= int(date["month"] or 1) <= 12:
        return name[: date.start()]
    if (date := _SHORT_DATE.search(name)) and _is_short_date(*date.groups()):
        return name[: date.start()]
    return _ALIAS.sub("", _NUMBERED.sub("", name))


def _is_day(month: str, day: str) -> bool:
    return 1 <= int(month) <= 12 and 1 <= int(day) <= 31


def _is_short_date(first: str, second: str, third: str | None) -> bool:
    """Whether a number is MMDD, YYMM or YYMMDD; a context length such as 2048 is not."""
    if third is not None:
        return _is_day(second, third)
    return _is_day(first, second) or (23 <= int(first) <= 39 and _is_day(second, "1"))


def difference(wanted: str, given: str) -> str | None:
    """How the name of a reply's model differs from the requested one.

    Args:
        wanted: the name that was requested.
        given: the name that the endpoint gives the model that answered.

    Returns:
        "" if it is the same name, a snapshot of it, or no name at all; a note if only a proxy's prefix (`azure/gpt-4o`) or the case
        differs, which is accepted; None if it is another model.
    """
    if given in (wanted, UNNAMED):
        return ""
    asked, answered = (name.strip("/").split("/") for name in (wanted, given))
    shared = min(len(asked), len(answered))
    same_path = [one.lower() for one in asked[-shared:-1]] == [one.lower() for one in answered[-shared:-1]]
    if not same_path or not _same_model(asked[-1].lower(), answered[-1].lower()):
        return None
    if len(asked) != len(answered):
        longer = asked if len(asked) > len(answered) else answered
        return f"'{given}' is accepted as '{wanted}': '{'/'.join(longer[:-shared])}/' is a proxy's prefix or a folder"
    return "" if _same_model(asked[-1], answered[-1]) else f"'{given}' is accepted as '{wanted}', spelled differently"


def _same_model(wanted: str, given: str) -> bool:
    """Whether names are equal, or the given one is a snapshot of the requested alias. A requested snapshot does not match its alias."""
    return given == wanted or undated(given) == (_ALIAS.sub("", wanted))
