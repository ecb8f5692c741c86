"""Denormal numbers: float values below the smallest normal one (1.2e-38 in float32), with which processors compute many times slower."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Context in which torch takes denormal numbers as 0 on the CPU.

    Once a preference loss is close to 0, most gradients and their squares in Adam's state are denormal: RLHF-V's training on the pocket
    world took five times as long with them, and ended with the same weights to the bit.

    The processor's mode belongs to a thread, and a thread that torch starts inherits it: enter the context before torch's first large
    operation. Threads that it starts inside keep the mode.
    """
    import numpy as np
    import torch

    for kind in (np.float16, np.float32, np.float64):
        np.finfo(kind)  # numpy looks for the smallest denormal number once, and would warn that there is none
    before = _are_flushed()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _are_flushed() -> bool:
    """Whether this thread takes denormal numbers as 0. torch can set the mode, but not report it."""
    import torch

    return not bool((torch.tensor(1e-39) * 1.0).item())
