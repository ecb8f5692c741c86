"""Make a CUDA-linked torchvision importable beside a CPU build of torch.

torchvision's wheels on the common index are linked against CUDA. With a CPU build of torch their compiled operators do not
load, and `import torchvision` stops with "operator torchvision::nms does not exist"; with it stop transformers' image
processors and vLLM's LLaVA. Only the pure-torch transforms are needed here, so it is enough to declare the two operators that
the import registers kernels for. Nothing is declared where torchvision imports by itself.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
from pathlib import Path

CHILD_FOLDER = Path(__file__).with_name("child_site")
"""Put on a child process's PYTHONPATH, its sitecustomize applies the shim there before anything else is imported."""

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


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
    """Declare the operators if that is needed; returns whether it was. Call it before transformers or vllm are imported."""
    import torch

    if not needed():
        return False
    # The operators may be there already: a child process applies the shim at start.
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", _SIGNATURE)
    logging.getLogger(__name__).info(
        "torchvision is built for CUDA, torch for CPUs: its two compiled operators were declared empty"
    )
    return True


def child_environment(environment: dict[str, str] | None = None) -> dict[str, str]:
    """An environment for a child process in which the shim is applied at start, where it is needed."""
    child = dict(os.environ if environment is None else environment)
    if needed():
        child["PYTHONPATH"] = os.pathsep.join(part for part in (str(CHILD_FOLDER), child.get("PYTHONPATH", "")) if part)
    return child
