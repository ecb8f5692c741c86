"""In which numbers the base model is trained: bfloat16 where the CPU multiplies them, float32 elsewhere.

Without instructions for it torch multiplies bfloat16 a hundred times as slowly as float32, and a first quickstart had no base
model after twelve minutes. The two give different models, so the world's cache keeps them apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from harness.models import devices


def of_models() -> contextlib.AbstractContextManager[Any]:
    """The context in which models are run."""
    return torch.autocast("cpu", torch.bfloat16, enabled=devices.multiplies_bfloat16())


def of_optimizers() -> contextlib.AbstractContextManager[Any]:
    """The context in which optimizers take their steps: torch's Muon asks for bfloat16, whatever the machine."""
    return contextlib.nullcontext() if devices.multiplies_bfloat16() else _Unrounded()


class _Unrounded(TorchFunctionMode):
    """Inside, what is requested in bfloat16 is a copy in its own type."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Takes one call's place and leaves all others."""
        return args[0].clone() if func is torch.Tensor.bfloat16 else func(*args, **(kwargs or {}))
