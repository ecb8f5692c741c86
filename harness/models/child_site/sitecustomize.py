"""Runs at the start of a child Python process that was given this folder: applies the torchvision shim when torch is imported.

torch itself is not imported here, since many child processes never need it: the shim is hooked to torchvision's import.
"""

import importlib.abc
import importlib.machinery
import sys


class _ShimBeforeTorchvision(importlib.abc.MetaPathFinder):
    """Declares the operators the first time that torchvision is looked for, then steps aside."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Never finds anything itself."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            from harness.models import torchvision_shim

            torchvision_shim.apply()


sys.meta_path.insert(0, _ShimBeforeTorchvision())
