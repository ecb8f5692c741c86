"""Ratings in a judge's reply: MMHal-Bench's official parser, and a strict one that only accepts unambiguous ratings."""

from __future__ import annotations

import functools
import re

from harness.judging.replies import UnreadableError, spoken

HIGHEST = 6
"""The best rating of MMHal-Bench."""
_DASH = "-–—−"
_MARKS = str.maketrans(dict.fromkeys("*_`\"'“”‘’$#<>", " ") | dict.fromkeys("([{", "(") | dict.fromkeys(")]}", ")"))
_COMMANDS = re.compile(r"\\[a-z]+")
_LABEL = re.compile(r"\brating(?:\s+score)?\b")
_SEPARATOR = re.compile(rf"\s*(?:[:=]\s*|[{_DASH}]\s+)?[\s(]*")
_NUMBER = re.compile(rf"(?P<sign>[{_DASH}+~≈])?\s*(?P<digits>\d+(?:\.\d+)?)")
_BEHIND = re.compile(
    r"(?P<of>[ \t]*\)?[ \t]*(?:/|out of|of)[ \t]*(?P<scale>\d+(?:\.\d+)?))"
    rf"|(?P<range>[ \t]*(?:[{_DASH}~]+|to|or|and|\||/)[ \t]*\d)"
    r"|(?P<part>,\d|[½¼¾%+]|\w|[ \t]+[\d%])"
)
_SAID = re.compile(r"\brating\s+(?:is|would be|of)\s+")
_SHOWN = 24


def parse_official(reply: str) -> int:
    """The official parser: the only digit d for which "rating: d" occurs in the lower-cased reply, else 0."""
    found = [digit for digit in range(HIGHEST + 1) if f"rating: {digit}" in reply.lower()]
    return found[0] if len(found) == 1 else 0


def parse_strict(reply: str) -> int | None:
    """Like `read_rating`, but None if the rating cannot be read."""
    try:
        return read_rating(reply)
    except UnreadableError:
        return None


def read_rating(reply: str) -> int:
    """The rating from 0 to 6 in a reply, a whole number; see `rating_on_scale`.

    Raises:
        UnreadableError: see `rating_on_scale`; or the rating is not a whole number.
    """
    rating = rating_on_scale(reply, HIGHEST)
    if not rating.is_integer():
        raise UnreadableError(f"'{rating:g}' is not an integer")
    return int(rating)


def rating_on_scale(reply: str, highest: int) -> float:
    """The rating from 0 to `highest` in a reply: "Rating: 4", with a full stop, emphasis or brackets around it, also "4/6".

    The scale in brackets ("Rating (0-6): 5") is not a rating. All ratings of a reply must agree; a judge's reasoning before the reply is
    not part of it.

    Raises:
        UnreadableError: there is none, several differ, or one is not a number on the scale (a range, a rating out of another number).
    """
    text = _COMMANDS.sub(" ", spoken(reply).lower()).translate(_MARKS)
    places = [label.end() for label in _LABEL.finditer(text)]
    ratings = {rating for place in places if (rating := _behind(text, place, highest)) is not None}
    if not ratings:  # "My rating is 4." if there is no "Rating: N"
        places = [label.end() for label in _SAID.finditer(text)]
        ratings = {rating for place in places if (rating := _number(text, place, highest)) is not None}
    if not ratings:
        raise UnreadableError("it has no rating")
    if len(ratings) > 1:
        raise UnreadableError(f"its ratings differ: {', '.join(f'{rating:g}' for rating in sorted(ratings))}")
    return ratings.pop()


@functools.cache
def _scale(highest: int) -> re.Pattern[str]:
    """The scale, as judges repeat it: "(0-6)", "scale from 0 to 6". "(0-60)" is another scale."""
    return re.compile(
        r"\s*\(?\s*(?:scale\s*)?(?:is\s*)?(?:of\s*|from\s*|:\s*)?"
        rf"(?:0\s*(?:[{_DASH}]+|to|\.\.+|…|/)\s*{highest}|(?:out of|max\.?|/)\s*{highest})(?!\d)\s*\)?"
    )


def _behind(text: str, place: int, highest: int) -> float | None:
    """The rating after the word, without its scale; None if none follows."""
    scale = _scale(highest).match(text, place)
    return _number(text, _SEPARATOR.match(text, scale.end() if scale else place).end(), highest)  # type: ignore[union-attr]


def _number(text: str, place: int, highest: int) -> float | None:
    """The number at this position; None if there is none."""
    number = _NUMBER.match(text, place)
    if not number:
        return None
    behind = _BEHIND.match(text, number.end())
    shown = " ".join(text[place : (behind or number).end()].split())[:_SHOWN]
    if number["sign"] or (behind and (behind["range"] or behind["part"])):
        raise UnreadableError(f"'{shown}' is not a single number")
    if behind and float(behind["scale"]) != highest:
        raise UnreadableError(f"'{shown}' is not on the scale from 0 to {highest}")
    value = float(number["digits"][:_SHOWN])
    if value > highest:
        raise UnreadableError(f"'{shown}' is above {highest}")
    return value
