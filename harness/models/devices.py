"""Devices for models in this process."""

from __future__ import annotations


def usual() -> str:
    """torch's name of the default device: the GPU if there is one, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_accelerator() -> bool:
    """Whether the default device is not the CPU."""
    return usual() != "cpu"


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 matrix products that torch uses; without them, float32 is a hundred times as
    fast."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def leave_out_cudnn_attention() -> None:
    """Compute attention with torch's other kernels.

    On Hopper and later GPUs torch asks cuDNN first, which plans anew for every shape, for some tenths of a second forwards and as much
    backwards. Batches of pairs hardly ever have the same shape: 20 steps of a small model took 27 s with it and 4 s without (H100).
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)
