"""The arithmetic of training the base model: bfloat16 if the CPU supports it, else float32.

Without CPU instructions for it, torch multiplies bfloat16 a hundred times as slowly as float32. The two give different models, so the
world's cache distinguishes them.
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
    """The context for optimizer steps: torch's Muon requests bfloat16 on every machine."""
    return contextlib.nullcontext() if devices.multiplies_bfloat16() else _Unrounded()


class _Unrounded(TorchFunctionMode):
    """Context in which conversions to bfloat16 return a copy in the original type."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace this one call, and pass all others on."""
        return args[0].clone() if func is torch.Tensor.bfloat16 else func(*args, **(kwargs or {}))
