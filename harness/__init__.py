"""Benchmark harness with pluggable aligners for vision-language models.

Importing this package is cheap: it pulls in neither torch nor vllm (a test holds that).
"""

__version__ = "0.1.0"

from harness.frames import Frames, load_runs
from harness.models import torchvision_shim

torchvision_shim.install()

__all__ = ["Frames", "load_runs"]
