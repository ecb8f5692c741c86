"""Benchmark harness with pluggable aligners for vision-language models.

Importing this package is cheap: it imports neither torch nor vllm (a test checks this), and what notebooks import from it is loaded on
first use.
"""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.version import VERSION

if TYPE_CHECKING:
    from harness.analysis.frames import Frames, load_runs
    from harness.api import align, evaluate, experiment, import_results, leaderboard, publish, report, score

__all__ = [
    "Frames",
    "align",
    "evaluate",
    "experiment",
    "import_results",
    "leaderboard",
    "load_runs",
    "publish",
    "report",
    "score",
]
__version__ = VERSION


def _hook_torchvision() -> None:
    """Install the torchvision shim before anything can import torchvision.

    The file is run by its path, as in child processes (`models/child_site`): importing it by name would import all of `harness.models`
    in every command, `harness --help` included.
    """
    path = Path(__file__).with_name("models") / "torchvision_shim.py"
    spec = importlib.util.spec_from_file_location("_harness_torchvision_shim", path)
    assert spec is not None and spec.loader is not None
    shim = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shim)
    shim.install()


_hook_torchvision()
# torch's threads wait for each other a hundred times in a step. By default they spin while they wait, also on a core that another process
# needs, which then holds up the thread that they wait for. OpenMP reads this when torch is loaded; a user's own value stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = "harness.analysis.frames" if name in ("Frames", "load_runs") else "harness.api"
        return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'harness' has no attribute '{name}'")
