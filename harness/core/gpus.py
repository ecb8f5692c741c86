"""Whether this machine has a GPU, without the import of torch."""

from __future__ import annotations

import shutil
import subprocess


def has_gpu() -> bool:
    """Whether the driver sees an NVIDIA GPU, even if torch cannot use it."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout
