"""Plugins that are one file and not installed: `--method ./ipo.py:IPO`, `--suite ./mine.py:Exact`.

The file is given what an installed plugin has: a module name of its own, and the metadata of a distribution with an entry point, in a
folder of the cache that is put on the path of this process and of those that it starts. So errors are attributed to the file, and
everything else treats the plugin like an installed one.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.core.errors import BadInputError
from harness.core.files import atomic_path, sha256_bytes
from harness.core.packages import MissingPackageError, is_installed
from harness.core.paths import cache_folder
from harness.core.plugins import Kind, PluginError
from harness.core.reading import read_bytes

_FORM = re.compile(r"(?P<file>.+\.py):(?P<attribute>[A-Za-z_]\w*)")
_STUB = '''"""Runs the file of a plugin that is not installed."""

from pathlib import Path as _Path

__file__ = {file!r}
exec(compile(_Path(__file__).read_bytes(), __file__, "exec"))
'''
REMEDY = "fix the file"


def adopt(kind: Kind, text: str) -> str:
    """The registered name of a plugin; a file (`FILE.py:CLASS`) is registered first.

    Args:
        kind: what the user names.
        text: a registered name, which is returned as it is, or a file and a class in it.

    Raises:
        BadInputError: there is no such file.
        PluginError: the file cannot be run, or has no such class, or the class has no name.
        MissingPackageError: it imports a package that is not installed.
    """
    if (found := load_file(text)) is None:
        return text
    plugin, file, stub = found
    name = inspect.getattr_static(plugin, "name", None)
    if not isinstance(name, str) or not name.strip():
        raise PluginError(f"{plugin.__name__}.name is {name!r}, not a text", where=str(file), remedy=REMEDY)
    # importlib.metadata finds a distribution by the name of this folder, up to the first hyphen, and takes one of each name: the classes
    # of a file are distributions of their own.
    distribution = f"{file.name}:{plugin.__name__}"
    about = stub.parent / f"{distribution.replace('-', '_')}-0.dist-info"
    for part, lines in {
        "METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: sha256-{stub.parent.name}\n",
        "RECORD": f"{file},,\n",
        "entry_points.txt": f"[harness.{kind}]\n{name} = {stub.stem}:{plugin.__name__}\n",
    }.items():
        with atomic_path(about / part) as temporary:
            temporary.write_text(lines, encoding="utf-8")
    _on_path(stub.parent)
    return name


def load_file(text: str) -> tuple[Any, Path, Path] | None:
    """The class that `FILE.py:CLASS` names, its file, and the module in the cache that runs the file; None for any other text.

    Raises:
        BadInputError, PluginError, MissingPackageError: as `adopt`.
    """
    parts = _FORM.fullmatch(text)
    if parts is None:
        return None
    file, attribute = Path(parts["file"]).absolute(), parts["attribute"]
    content = sha256_bytes(read_bytes(file, "plugin"))[:12]
    place = sha256_bytes(f"{file}:{attribute}".encode())[:16]
    stub = cache_folder() / "plugins" / place / content / f"harness_file_{place}_{content}.py"
    with atomic_path(stub) as temporary:
        temporary.write_text(_STUB.format(file=str(file)), encoding="utf-8")
    plugin = getattr(_module(stub, file), attribute, None)
    if not isinstance(plugin, type):
        raise PluginError(f"the file has no class '{attribute}'", where=str(file), remedy=REMEDY)
    return plugin, file, stub


def _module(stub: Path, file: Path) -> ModuleType:
    """The file's module, run once in a process.

    Raises:
        PluginError, MissingPackageError: as `adopt`.
    """
    name = stub.stem
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, stub)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        place = _place(error, file)
        if isinstance(error, BadInputError):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name and not is_installed(error.name):
            raise MissingPackageError(error.name, place) from error
        raise PluginError(
            f"the file cannot be run: {type(error).__name__}: {error}", where=place, remedy=REMEDY
        ) from error
    return module


def _place(error: BaseException, file: Path) -> str:
    """File and line of the deepest call in the file."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f"{file}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{file}:{lines[-1]}" if lines else str(file)


def _on_path(folder: Path) -> None:
    """Put a folder at the end of the path of this process and of those that it starts, in place of one for an earlier content."""
    inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    for path in (sys.path, inherited):
        path[:] = [part for part in path if Path(part).parent != folder.parent or part == str(folder)]
        if str(folder) not in path:
            path.append(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(inherited)
