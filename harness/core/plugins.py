"""Attributing exceptions: which plugin a line of code belongs to, and what to tell its author.

A plugin is a distribution that registers a name in one of this tool's groups of entry points. An exception that was raised in its files
(or in a library that they called) is the plugin's mistake, and is reported with file and line; so is a returned value that the contract
does not allow. Everything else is a defect of the harness.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, Literal

from harness.core.errors import BadInputError, HarnessError
from harness.core.packages import OWN_DISTRIBUTION, MissingPackageError, is_installed
from harness.core.paths import cache_folder

Kind = Literal["aligners", "benchmarks", "backends", "judges", "candidate_judges", "worlds"]
KINDS: tuple[Kind, ...] = ("aligners", "benchmarks", "backends", "judges", "candidate_judges", "worlds")
WORD = {
    "aligners": "method",
    "benchmarks": "suite",
    "backends": "backend",
    "judges": "judge",
    "candidate_judges": "judge of candidates",
    "worlds": "world",
}
_OWN = ("harness", "aligners", "benchmarks")
REMEDY = "report it to the plugin's author (--debug shows the whole traceback), or do not use the plugin"
_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors of the machine, which are not the fault of any code."""


@dataclass(frozen=True)
class Entry:
    """One registered name, where it is defined, and the distribution that registers it."""

    kind: Kind
    name: str
    target: str
    distribution: str
    version: str

    @property
    def builtin(self) -> bool:
        """Whether it is part of this tool, and not of a plugin."""
        return self.distribution == OWN_DISTRIBUTION

    def __str__(self) -> str:
        from_ = "" if self.distribution == "?" else f" of {self.distribution} {self.version}"
        return f"the plugin '{self.name}' ({WORD[self.kind]}){from_}"


class PluginError(BadInputError):
    """A plugin's code is at fault, and not the harness and not the user's data."""


def registered(kind: Kind) -> list[Entry]:
    """Every entry of a kind along `sys.path`, in the order of discovery; two may have the same name."""
    return [entry for entry in _registered(tuple(sys.path)) if entry.kind == kind]


@functools.cache
def _registered(path: tuple[str, ...]) -> tuple[Entry, ...]:
    """All entries of the packages along `path`, which is `sys.path`. The search takes 20 ms."""
    points = [(kind, point) for kind in KINDS for point in importlib.metadata.entry_points(group=f"harness.{kind}")]
    return tuple(
        Entry(
            kind, point.name, point.value, *((point.dist.name, point.dist.version) if point.dist is not None else "??")
        )
        for kind, point in points
    )


def entry_of(file: str, qualified_name: str = "") -> Entry | None:
    """The plugin's entry that a source file belongs to; None if it belongs to no plugin.

    Args:
        file: the code's file name.
        qualified_name: of the code; it distinguishes the entries of one distribution (`IPO.loss` is of `harness_ipo:IPO`).
    """
    here = os.path.realpath(file)
    owners = [entry for root, entry in _roots(tuple(sys.path)) if here == root or here.startswith(root + os.sep)]
    if not owners:
        return None

    def likeness(entry: Entry) -> tuple[bool, bool]:
        module, _, attribute = entry.target.partition(":")
        in_file = module.rpartition(".")[2] in (Path(here).stem, Path(here).parent.name)
        return in_file and qualified_name.split(".")[0] == attribute.split(".")[0], in_file

    return max(owners, key=likeness)


@functools.cache
def _roots(path: tuple[str, ...]) -> tuple[tuple[str, Entry], ...]:
    """(file or folder, entry) of every plugin: its modules as Python finds them, and the files that its distribution installed."""
    roots: list[tuple[str, Entry]] = []
    for entry in _registered(path):
        module = entry.target.partition(":")[0]
        if entry.builtin or module.partition(".")[0] in _OWN:
            continue
        places = [*_places(module)]
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            files = importlib.metadata.distribution(entry.distribution).files or []
            places += [str(file.locate()) for file in files if file.suffix == ".py"]
        roots += [(os.path.realpath(place), entry) for place in places]
    return tuple(dict.fromkeys(roots))


def source_files(entry: Entry) -> list[tuple[str, Path]]:
    """The Python files of a plugin, with their names from its package on: those of its package and of its distribution. Of a plugin that
    is a file, this file.
    """
    files: dict[Path, str] = {}
    for root in (Path(place) for place, owner in _roots(tuple(sys.path)) if owner == entry):
        if root.is_dir():
            files |= {path: path.relative_to(root.parent).as_posix() for path in root.rglob("*.py")}
    for root in (Path(place) for place, owner in _roots(tuple(sys.path)) if owner == entry):
        if root.is_file() and not root.is_relative_to(os.path.realpath(cache_folder() / "plugins")):
            files.setdefault(root, root.name)
    return sorted((name, path) for path, name in files.items())


def _places(module: str) -> Iterator[str]:
    """The file or the folders of a module's top-level package; for a namespace package, which distributions share, of the part below
    it."""
    parts = module.split(".")
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError):
        return
    if spec is None:
        return
    if spec.origin is not None and spec.submodule_search_locations is None:
        yield spec.origin
    for folder in spec.submodule_search_locations or ():
        if spec.origin is not None:
            yield folder
        elif len(parts) > 1:
            yield from (os.path.join(folder, parts[1]), os.path.join(folder, f"{parts[1]}.py"))  # noqa: PTH118


def blame(error: BaseException) -> HarnessError | None:
    """The error to report for an exception that is not a defect of the harness; None if it is a defect, or already says what to do.

    Returns:
        A `MissingPackageError` if a package is not installed, and a `PluginError` if a plugin's code is at fault.
    """
    if isinstance(error, HarnessError | KeyboardInterrupt) or type(error).__name__ == "Abort":
        return None
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, HarnessError):
        culprit = _deepest(seen)
        if isinstance(seen, ModuleNotFoundError) and seen.name and not is_installed(seen.name):
            return _missing(seen, culprit)
        if culprit is not None:
            entry, place = culprit
            if isinstance(seen, OSError) and seen.errno in _MACHINE:
                return None
            return PluginError(
                f"{entry} failed: {type(seen).__name__}{f': {seen}' if str(seen) else ''}",
                where=place,
                remedy=REMEDY,
            )
        seen = seen.__cause__
    return None


def _missing(error: ModuleNotFoundError, importer: tuple[Entry, str] | None) -> HarnessError | None:
    """The error for a missing module: a package to install, unless the module is a part of the plugin or of the harness itself."""
    name = str(error.name)
    top = name.partition(".")[0]
    for entry in _registered(tuple(sys.path)):
        if not entry.builtin and entry.target.partition(":")[0].partition(".")[0] == top:
            return PluginError(
                f"{entry} is registered as {entry.target}, but there is no module '{name}'",
                where=importer[1] if importer else f"{entry.distribution} {entry.version}, entry_points.txt",
                remedy=f"reinstall {entry.distribution}; if that does not help, report it to the plugin's author",
            )
    if top in _OWN:
        return None
    if importer is None:
        return MissingPackageError(name)
    entry, place = importer
    return MissingPackageError(name, f"{place}: {entry} imports it", entry.distribution)


def _deepest(error: BaseException) -> tuple[Entry, str] | None:
    """The plugin and the line of the deepest frame that lies in a plugin's files.

    If that frame only calls the method of ours that it overrides, an error below it is ours.
    """
    if isinstance(error, SyntaxError) and error.filename and (entry := entry_of(error.filename)):
        return entry, f"{error.filename}:{error.lineno}"
    deepest: tuple[Entry, str] | None = None
    trace: TracebackType | None = error.__traceback__
    before: CodeType | None = None
    while trace is not None:
        code = trace.tb_frame.f_code
        if entry := entry_of(code.co_filename, code.co_qualname):
            deepest = entry, f"{code.co_filename}:{trace.tb_lineno}, in {code.co_qualname}"
            before = code
        else:
            if before is not None and before.co_name == code.co_name and not code.co_name.startswith("<"):
                deepest = None if _is_ours(code.co_filename) else deepest
            before = None
        trace = trace.tb_next
    return deepest


def _is_ours(file: str) -> bool:
    top = Path(__file__).resolve().parents[2]
    return any(Path(os.path.realpath(file)).is_relative_to(top / name) for name in _OWN)


@contextlib.contextmanager
def attributed() -> Iterator[None]:
    """Turn exceptions inside that are a plugin's mistake or a missing package into the errors below.

    Raises:
        PluginError: a plugin's code is at fault.
        MissingPackageError: a package is not installed.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if mistake := blame(error):
            raise mistake from error
        raise


def is_plugin(made: Any) -> bool:
    """Whether an object's class, or a class, belongs to a plugin."""
    return plugin_of(made if isinstance(made, type) else type(made)) is not None


def wrong(made: Any, method: str, got: str, expected: str) -> Exception:
    """The error to raise when a method returned what its contract does not allow.

    Args:
        made: the object that it was called on, or the class.
        method: its name.
        got: the returned value, as the words after "returned".
        expected: what was expected.

    Returns:
        A `PluginError` with the file and line of the method; for our own classes a `TypeError`, which is a defect.
    """
    kind = made if isinstance(made, type) else type(made)
    said = f"{kind.__qualname__}.{method} returned {got}; expected: {expected}"
    entry = plugin_of(kind)
    if entry is None:
        return TypeError(said)
    return PluginError(f"{entry}: {said}", where=_place(kind, method), remedy=REMEDY)


def mistake_in(kind: Any, entry: Entry, problem: str) -> PluginError:
    """The error for a registered class that is invalid, before any of its code runs."""
    return PluginError(f"{entry}: {problem}", where=_place(kind, "") or entry.target, remedy=REMEDY)


def plugin_of(kind: type) -> Entry | None:
    """The entry of the plugin that a class is defined in; None for our own classes."""
    for one in kind.__mro__:
        file = getattr(sys.modules.get(one.__module__), "__file__", None)
        if file is not None and (entry := entry_of(file, one.__qualname__)):
            return entry
    return None


def _place(kind: Any, method: str) -> str | None:
    """File and line of a class's method if the plugin defines it, else of the class."""
    if not isinstance(kind, type):
        return getattr(kind, "__file__", None)
    function = inspect.unwrap(getattr(kind, method, None) or kind)
    function = getattr(function, "fget", None) or function
    code = getattr(function, "__code__", None)
    if code is not None and entry_of(code.co_filename):
        return f"{code.co_filename}:{code.co_firstlineno}, in {code.co_qualname}"
    with contextlib.suppress(OSError, TypeError):
        return f"{inspect.getsourcefile(kind)}:{inspect.getsourcelines(kind)[1]}, in {kind.__qualname__}"
    return None
