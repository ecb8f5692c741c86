"""Names of runs, suites, worlds and stages, which become one part of a path. No name can leave the folder that it is joined to."""

from __future__ import annotations

import hashlib
import re

from harness.core.errors import BadInputError

LONGEST = 120
"""Characters of a name. File systems take 255 bytes, and temporary names and time stamps are made from it."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_OTHER = re.compile(r"[^A-Za-z0-9._-]+")


def check_name(name: str, what: str) -> str:
    """Return a name unchanged, if it can be one part of a path.

    Args:
        name: letters (A to Z), digits, `.`, `_` and `-`, at most `LONGEST` of them; it does not begin with `.` or `-`.
        what: what is named ("the run's name (--name)"), for the message.

    Raises:
        BadInputError: it is not such a name.
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
    """Make a name from any text, such as a model's name at an endpoint; the same text always gives the same name.

    A text that is already a valid name is not changed. Runs of other characters become `-`. If little remains of the text, or it is too
    long, a part of its hash is appended, so that two such texts do not share a name.
    """
    name = _OTHER.sub("-", text).lstrip(".-")
    if name and len(name) <= LONGEST and len(name) >= len(text) // 2:
        return name
    return f"{name[: LONGEST - 9] or 'name'}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
