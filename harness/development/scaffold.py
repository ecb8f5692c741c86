"""A package to begin a plugin with: a module, its entry point, and a test that passes as written."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template
from typing import Literal

from harness.core.errors import BadInputError, shown
from harness.core.files import atomic_folder

Sort = Literal["method", "benchmark"]
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_TEMPLATES = Path(__file__).with_name("templates")
_GROUP = {"method": "aligners", "benchmark": "benchmarks"}


def new_plugin(sort: Sort, name: str, folder: Path) -> list[Path]:
    """Write a small package for a method or a benchmark.

    Args:
        sort: what it registers.
        name: the registered name: small letters, digits and single hyphens.
        folder: its folder, which must not exist.

    Returns:
        The files, relative to the folder.

    Raises:
        BadInputError: the name cannot be used, or the folder exists.
    """
    module = f"harness_{name.replace('-', '_')}"
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise BadInputError(
            f"{shown(name)} cannot be the name of a {sort}",
            remedy="use small letters, digits and hyphens, e.g. my-loss",
        )
    if folder.exists():
        raise BadInputError("the folder exists", where=str(folder), remedy="give another one: --output FOLDER")
    values = {
        "name": name,
        "module": module,
        "kind": "".join(part.capitalize() for part in name.split("-")),
        "group": _GROUP[sort],
        "sort": sort,
    }
    with atomic_folder(folder) as made:
        for template in sorted((_TEMPLATES / sort).iterdir()) + sorted((_TEMPLATES / "both").iterdir()):
            target = template.name.removesuffix(".txt").replace("MODULE", module)
            text = Template(template.read_text(encoding="utf-8")).substitute(values)
            (made / target).write_text(text, encoding="utf-8")
    return sorted(path.relative_to(folder) for path in folder.iterdir())
