"""Where models that run in this process are run."""

from __future__ import annotations


def usual() -> str:
    """torch's name of the device that models are put on unless another one is named: the GPU where there is one, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_accelerator() -> bool:
    """Whether that is anything but the CPU."""
    return usual() != "cpu"


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions that torch multiplies matrices of bfloat16 with; without, float32 is a hundred times as fast."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
