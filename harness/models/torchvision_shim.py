"""Make a CUDA-linked torchvision importable beside a CPU build of torch.

torchvision's wheels on the common index are linked against CUDA. With a CPU build of torch their compiled operators do not load, and
`import torchvision` fails with "operator torchvision::nms does not exist"; transformers' image processors, PEFT and vLLM's LLaVA then
fail, too. Only the pure-torch transforms are needed here, so it is enough to declare the two operators for which the import registers
kernels. Nothing is declared if torchvision can be imported without this.

It is applied in one place: `install` hooks it to the import of torchvision itself, so that no import can happen too early.
`harness/__init__.py` installs the hook in this process; `child_site` installs it in child processes that do not import the harness, such
as vLLM's. This file imports only the standard library, because it runs at the start of each of them.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

CHILD_FOLDER = Path(__file__).with_name("child_site")
"""On a child process's PYTHONPATH, its sitecustomize installs the hook before anything else is imported."""

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds torchvision as Python does, and applies the shim just before it is executed (not when it is only located)."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return None for every other module."""
        if fullname != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                apply()
                run(module)

            # The loader is not replaced, because resources are read through it.
            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Hook the shim to the import of torchvision. Imports nothing; a second call does nothing."""
    if not any(type(finder).__name__ == _BeforeTorchvision.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())


def needed() -> bool:
    """Whether torch is a CPU build and torchvision is one for CUDA. Imports torch, not torchvision."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or torch.version.cuda or torch.version.hip:
        return False
    version = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    return re.search(r"__version__ = '[^']*\+(cu|rocm)", version) is not None


@functools.cache
def apply() -> bool:
    """Declare the operators if needed; returns whether they were declared."""
    if not needed():
        return False
    import torch

    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", _SIGNATURE)
    logging.getLogger(__name__).info(
        "torchvision is built for CUDA, torch for CPUs: its two compiled operators were declared empty"
    )
    return True


def child_environment(environment: dict[str, str] | None = None) -> dict[str, str]:
    """An environment for a child process, and its children, in which the hook is installed at start."""
    child = dict(os.environ if environment is None else environment)
    folders = [part for part in child.get("PYTHONPATH", "").split(os.pathsep) if part and part != str(CHILD_FOLDER)]
    child["PYTHONPATH"] = os.pathsep.join([str(CHILD_FOLDER), *folders])
    return child
