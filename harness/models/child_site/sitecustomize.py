"""Runs at the start of child Python processes with this folder on their path: hooks the torchvision shim to the import of torchvision.

The shim's file is run by its path: importing it by name would import the harness, which many child processes do not need.
"""

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "_harness_torchvision_shim", Path(__file__).resolve().parents[1] / "torchvision_shim.py"
)
assert _spec is not None and _spec.loader is not None
_shim = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_shim)
_shim.install()
