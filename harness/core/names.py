"""Names that become one part of a path: of runs, suites, worlds, stages. No name leads out of the folder that it is joined to."""

from __future__ import annotations

import hashlib
import re

from harness.core.errors import BadInputError

LONGEST = 120
"""Characters of a name. File systems take 255 bytes, and temporary names and time stamps are made from it."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_OTHER = re.compile(r"[^A-Za-z0-9._-]+")


def check_name(name: str, what: str) -> str:
    """A name as it was given, if it can be one part of a path.

    Args:
        name: letters (A to Z), digits, `.`, `_` and `-`, at most `LONGEST` of them; it begins with none of `.` and `-`.
        what: what is named ("the run's name (--name)"), for the message.

    Raises:
        BadInputError: it is no such name.
    """
    if len(name) <= LONGEST and _NAME.fullmatch(name):
        return name
    shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}… ({len(name)} characters)"
    raise BadInputError(
        f"{what} cannot be {shown!r}: a name has letters (A to Z), digits, '.', '_' and '-', at most {LONGEST} of them, "
        "and starts with a letter, a digit or '_'",
        remedy=f"for example {name_from(name)!r}",
    )


def name_from(text: str) -> str:
    """A name made from any text, such as a model's name at an endpoint: the same text always gives the same name.

    A text that is a name already stays as it is. Stretches of other characters become `-`. Where little is left of the text, or it is
    too long, a part of its hash stands at the end, so that two such texts do not share a name.
    """
    name = _OTHER.sub("-", text).lstrip(".-")
    if name and len(name) <= LONGEST and len(name) >= len(text) // 2:
        return name
    return f"{name[: LONGEST - 9] or 'name'}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
