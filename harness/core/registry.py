"""Names -> aligners, benchmarks, backends, judges, worlds. Built-ins and plugins come by the same entry points.

Nothing is imported until it is asked for by name, so that `harness --help` stays fast.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from dataclasses import dataclass
from typing import Any, Literal

from harness.core.errors import BadInputError, HarnessError, UnknownNameError
from harness.core.names import check_name

Kind = Literal["aligners", "benchmarks", "backends", "judges", "worlds"]
KINDS: tuple[Kind, ...] = ("aligners", "benchmarks", "backends", "judges", "worlds")
_WORD = {"aligners": "method", "benchmarks": "suite", "backends": "backend", "judges": "judge", "worlds": "world"}
OWN_DISTRIBUTION = "vlm-align-harness"


@dataclass(frozen=True)
class Entry:
    """One registered name: what it is called, where it is defined, which distribution brings it."""

    kind: Kind
    name: str
    target: str
    distribution: str
    version: str

    @property
    def builtin(self) -> bool:
        """Whether it comes with this tool rather than with a plugin."""
        return self.distribution == OWN_DISTRIBUTION


def entries(kind: Kind) -> dict[str, Entry]:
    """All registered names of a kind, sorted by name. They are read once: a search through all installed packages takes 20 ms.

    Raises:
        HarnessError: two distributions register the same name (neither is preferred in silence).
    """
    return dict(_entries(kind, tuple(sys.path)))


@functools.cache
def _entries(kind: Kind, path: tuple[str, ...]) -> dict[str, Entry]:
    """The entries of the packages that are found along `path`, which is `sys.path`."""
    found: dict[str, Entry] = {}
    for point in importlib.metadata.entry_points(group=f"harness.{kind}"):
        dist = point.dist
        entry = Entry(kind, point.name, point.value, dist.name if dist else "?", dist.version if dist else "?")
        other = found.get(point.name)
        if other and (other.target, other.distribution) != (entry.target, entry.distribution):
            raise HarnessError(
                f"two packages register the {_WORD[kind]} '{point.name}': {other.distribution} ({other.target}) "
                f"and {entry.distribution} ({entry.target})",
                remedy="uninstall one of them",
            )
        found[point.name] = entry
    return dict(sorted(found.items()))


def load(kind: Kind, name: str) -> Any:
    """The class registered under a name.

    Raises:
        UnknownNameError: no such name; the nearest ones are suggested.
        HarnessError: the entry exists but its module cannot be imported (the cause is named).
    """
    known = entries(kind)
    if name not in known:
        raise UnknownNameError(_WORD[kind], name, known)
    entry = known[name]
    try:
        check_name(name, f"a {_WORD[kind]}'s name")  # it becomes part of paths
    except BadInputError as error:
        raise HarnessError(
            error.problem,
            where=f"{entry.distribution} {entry.version}, which registers it",
            remedy="its author can mend it; until then: uninstall it",
        ) from None
    module, _, attribute = entry.target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise HarnessError(
            f"the {_WORD[kind]} '{name}' is registered as {entry.target} but cannot be loaded: {error}",
            where=f"{entry.distribution} {entry.version}",
            remedy=f"reinstall {entry.distribution}, or the package that the message names",
        ) from error


def names(kind: Kind, wanted: str) -> list[str]:
    """Split a comma-separated option and check every name against the registry.

    Raises:
        BadInputError: the list is empty.
        UnknownNameError: one of the names is not registered.
    """
    split = [part.strip() for part in wanted.split(",") if part.strip()]
    if not split:
        raise BadInputError(f"no {_WORD[kind]} was named", remedy="see `harness list`")
    known = entries(kind)
    for name in split:
        if name not in known:
            raise UnknownNameError(_WORD[kind], name, known)
    return list(dict.fromkeys(split))
