"""Benchmark harness with pluggable aligners for vision-language models.

Importing this package is cheap: it pulls in neither torch nor vllm (a test holds that), and what notebooks import from it is only
loaded when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from harness.models import torchvision_shim

if TYPE_CHECKING:
    from harness.frames import Frames, load_runs

torchvision_shim.install()

__all__ = ["Frames", "load_runs"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("harness.frames"), name)
    raise AttributeError(f"module 'harness' has no attribute '{name}'")
