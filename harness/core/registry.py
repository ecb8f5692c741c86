"""Names -> aligners, benchmarks, backends, judges, worlds. Built-ins and plugins are registered by the same entry points.

Nothing is imported until it is asked for by name, so that `harness --help` stays fast.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.errors import BadInputError, HarnessError, UnknownNameError, shown
from harness.core.file_plugins import adopt, load_file
from harness.core.names import check_name
from harness.core.packages import OWN_DISTRIBUTION
from harness.core.plugins import (
    KINDS,
    REMEDY,
    WORD,
    Entry,
    Kind,
    PluginError,
    attributed,
    blame,
    mistake_in,
    registered,
)

__all__ = ["KINDS", "OWN_DISTRIBUTION", "Entry", "Kind", "adopt", "entries", "load", "names"]

FILES = "HARNESS_PLUGINS"
"""Environment variable with the plugins that are files."""
_CONTRACTS = {
    "aligners": ("aligners.base:Aligner", ("summary", "source")),
    "benchmarks": ("benchmarks.base:Benchmark", ("title", "source")),
    "backends": ("harness.serving.base:Backend", ()),
    "judges": ("harness.judging.base:Judge", ()),
    "candidate_judges": ("harness.judging.candidates:CandidateJudge", ("summary", "source")),
    "worlds": ("harness.core.worlds:World", ("summary", "judge")),
}
"""The base class of each kind, written like an entry point, and the text attributes that a class must have."""


def entries(kind: Kind) -> dict[str, Entry]:
    """All registered names of a kind, sorted by name; those of the files in HARNESS_PLUGINS, too. They are read once.

    Raises:
        PluginError: two distributions register the same name, or a file is at fault.
        BadInputError: HARNESS_PLUGINS names no file.
    """
    if declared := os.environ.get(FILES):
        _adopt_files(declared)
    return dict(_entries(kind, tuple(sys.path)))


@functools.cache
def _adopt_files(declared: str) -> None:
    """Register the plugins of a comma-separated list of `FILE.py:CLASS`."""
    for text in filter(None, (part.strip() for part in declared.split(","))):
        if (loaded := load_file(text)) is None:
            raise BadInputError(
                f"{FILES} is a list of FILE.py:CLASS, and {shown(text)} is none", remedy=f"correct {FILES}"
            )
        kinds = [kind for kind in KINDS if issubclass(loaded[0], _contract(kind))]
        if not kinds:
            raise PluginError(
                f"{loaded[0].__qualname__} is no subclass of a method, a benchmark or another kind of plugin",
                where=str(loaded[1]),
                remedy=f"correct {FILES}, or the file",
            )
        adopt(kinds[0], text)


def _contract(kind: Kind) -> type:
    """The base class of a kind."""
    module, _, attribute = _CONTRACTS[kind][0].partition(":")
    base: type = getattr(importlib.import_module(module), attribute)
    return base


@functools.cache
def _entries(kind: Kind, path: tuple[str, ...]) -> dict[str, Entry]:
    """The entries, by name, of the packages that are found along `path`, which is `sys.path`."""
    by_name: dict[str, Entry] = {}
    for entry in registered(kind):
        other = by_name.get(entry.name)
        if other and (other.target, other.distribution) != (entry.target, entry.distribution):
            raise PluginError(
                f"two packages register the {WORD[kind]} '{entry.name}': {other.distribution} ({other.target}) "
                f"and {entry.distribution} ({entry.target})",
                remedy="uninstall one of them",
            )
        by_name[entry.name] = entry
    return dict(sorted(by_name.items()))


def load(kind: Kind, name: str) -> Any:
    """The class registered under a name, or `FILE.py:CLASS`.

    Raises:
        UnknownNameError: no such name; the nearest ones are suggested.
        PluginError: a plugin's module cannot be imported, or its class is not what the contract asks for.
        MissingPackageError: it imports a package that is not installed.
    """
    name = adopt(kind, name)
    known = entries(kind)
    if name not in known:
        raise UnknownNameError(WORD[kind], name, known)
    entry = known[name]
    try:
        check_name(name, f"a {WORD[kind]}'s name")  # the name becomes part of paths
    except BadInputError as error:
        raise PluginError(
            error.problem,
            where=f"{entry.distribution} {entry.version}, which registers it",
            remedy="report it to the plugin's author, or uninstall it",
        ) from None
    return _class(entry, tuple(sys.path))


@functools.cache
def _class(entry: Entry, path: tuple[str, ...]) -> Any:
    """An entry's class, checked once."""
    module, _, attribute = entry.target.partition(":")
    with attributed():
        try:
            target: Any = importlib.import_module(module)
        except (Exception, SystemExit) as error:
            raise _not_imported(entry, error) from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise mistake_in(target, entry, f"it is registered as {entry.target}, and {module} has no '{attribute}'")
        target = getattr(target, part)
    if not entry.builtin:
        with attributed():
            _check(entry, target)
    return target


def _not_imported(entry: Entry, error: BaseException) -> BaseException:
    """The error itself if it is attributed, or else a `PluginError`: the plugin's import led to an error in other files."""
    if entry.builtin or blame(error) is not None:
        return error
    return PluginError(
        f"{entry} cannot be imported: {type(error).__name__}: {error}", where=entry.target, remedy=REMEDY
    )


def _check(entry: Entry, plugin: Any) -> None:
    """Check a plugin's class as far as possible before it is used.

    Raises:
        PluginError: it lacks something.
    """
    target, words = _CONTRACTS[entry.kind]
    module, _, attribute = target.partition(":")
    base = _contract(entry.kind)
    if not isinstance(plugin, type) or not issubclass(plugin, base):
        what = (
            f"the class {plugin.__qualname__}" if isinstance(plugin, type) else f"of the type {type(plugin).__name__}"
        )
        raise mistake_in(plugin, entry, f"{entry.target} is {what}, not a subclass of {module}.{attribute}")
    _check_words(entry, plugin, words)
    if (settings := getattr(base, "Settings", None)) is not None:
        _check_settings(entry, plugin, settings)


def _check_words(entry: Entry, plugin: Any, words: Sequence[str]) -> None:
    called, target = plugin.__qualname__, _CONTRACTS[entry.kind][0].replace(":", ".")
    if inspect.isabstract(plugin):
        lacking = ", ".join(sorted(plugin.__abstractmethods__))
        raise mistake_in(plugin, entry, f"{called} does not define {lacking}, which {target} requires")
    for word in ("name", *words):
        value = inspect.getattr_static(plugin, word, None)
        if not isinstance(value, property) and not (isinstance(value, str) and value.strip()):
            raise mistake_in(plugin, entry, f"{called}.{word} is {value!r}, not a text")
    if isinstance(plugin.name, str) and plugin.name != entry.name:
        raise mistake_in(plugin, entry, f"{called}.name is '{plugin.name}', but it is registered as '{entry.name}'")
    if entry.kind == "benchmarks":
        most = inspect.getattr_static(plugin, "max_new_tokens", None)
        if not isinstance(most, property) and not (type(most) is int and most > 0):
            raise mistake_in(plugin, entry, f"{called}.max_new_tokens is {most!r}, not a number of tokens")


def _check_settings(entry: Entry, plugin: Any, base: type) -> None:
    settings: Any = plugin.Settings
    if not (isinstance(settings, type) and issubclass(settings, base)):
        raise mistake_in(
            plugin, entry, f"{plugin.__qualname__}.Settings is {settings!r}, not a subclass of {base.__qualname__}"
        )
    fields: Mapping[str, Any] = settings.model_fields  # type: ignore[attr-defined]
    if bare := [name for name, field in fields.items() if field.is_required()]:
        raise mistake_in(
            plugin,
            entry,
            f"{settings.__qualname__}.{bare[0]} has no default: every setting of a plugin needs a default",
        )
    try:
        settings()
    except ValueError as error:
        first = " ".join(str(error).split())
        raise mistake_in(plugin, entry, f"{settings.__qualname__} does not accept its own defaults: {first}") from error


def names(kind: Kind, wanted: str) -> list[str]:
    """Split a comma-separated option and check every name against the registry. The name of a group of suites stands for its suites, and
    `FILE.py:CLASS` for the class's name.

    Raises:
        BadInputError: the list is empty.
        UnknownNameError: one of the names is not registered.
    """
    split = [adopt(kind, part.strip()) for part in wanted.split(",") if part.strip()]
    if not split:
        raise BadInputError(f"no {WORD[kind]} is given", remedy="see `harness list`")
    known = entries(kind)
    chosen: list[str] = []
    for name in split:
        members = [name] if name in known else group_members(name) if kind == "benchmarks" else []
        if not members:
            raise UnknownNameError(WORD[kind], name, known)
        chosen += members
    return list(dict.fromkeys(chosen))


def group_members(group: str) -> list[str]:
    """The suites that declare a group, in the order of tables; suites that cannot be loaded are left out."""
    members = []
    for name in entries("benchmarks"):
        try:
            suite = load("benchmarks", name)
        except HarnessError:  # the command that names it reports why
            continue
        if group and suite.group == group:
            members.append((suite.place, name))
    return [name for _, name in sorted(members)]
