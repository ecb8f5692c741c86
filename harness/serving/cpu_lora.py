"""LoRA on vLLM's CPU path: correct for mixed batches, and as matrix products.

vLLM 0.32 computes LoRA on a CPU by gathering the adapter's weights for every token (40 answers per second on the small model where the
base alone gives 600), and its gather uses the index -1, which marks tokens of the base, as the last adapter: in a batch that mixes base
and adapter, an adapter is applied to the base's tokens, too. Here the same three operations run adapter by adapter, and tokens without
one are skipped. Applied in the engine's process, on CPUs only (`apply`); tests compare with vLLM's own operations where those are
correct.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def per_adapter(inputs: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """inputs[t] @ weights[indices[t]]^T for every token t; 0 if the index is negative.

    Args:
        inputs: [tokens, width].
        weights: [adapters, out, width], or with a dimension of 1 in second place.
        indices: [tokens], an adapter's slot, or -1 for none.

    Returns:
        [tokens, out].
    """
    if weights.dim() == 4:
        weights = weights.squeeze(1)
    slots = indices.unique().tolist()
    if len(slots) == 1 and slots[0] >= 0:
        return inputs @ weights[slots[0]].to(inputs.dtype).T
    outputs = inputs.new_zeros(inputs.shape[0], weights.shape[1])
    for slot in slots:
        if slot >= 0:
            rows = indices == slot
            outputs[rows] = inputs[rows] @ weights[slot].to(inputs.dtype).T
    return outputs


def bgmv_shrink(
    inputs: Tensor, lora_b_weights: Tensor, output_tensor: Tensor, lora_indices_tensor: Tensor, scaling: float = 1.0
) -> None:
    """output[:, :rank] = scaling * (A x), per token."""
    outputs = per_adapter(inputs.to(output_tensor.dtype), lora_b_weights, lora_indices_tensor)
    output_tensor[:, : outputs.shape[1]] = scaling * outputs


def bgmv_expand(
    inputs: Tensor, lora_b_weights: Tensor, output_tensor: Tensor, lora_indices_tensor: Tensor, add_inputs: bool = True
) -> None:
    """output (+)= B x, per token; adapter and model may be padded differently."""
    outputs = per_adapter(inputs.to(output_tensor.dtype), lora_b_weights, lora_indices_tensor)
    width = min(outputs.shape[1], output_tensor.shape[1])
    rows = 1 if outputs.shape[0] == 1 else output_tensor.shape[0]
    _put(output_tensor[:, :width], outputs[:rows, :width], add_inputs)


def bgmv_expand_slice(
    inputs: Tensor,
    lora_b_weights: Tensor,
    output_tensor: Tensor,
    lora_indices_tensor: Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """As `bgmv_expand`, into a slice of the output's columns."""
    outputs = per_adapter(inputs.to(output_tensor.dtype), lora_b_weights, lora_indices_tensor)
    _put(output_tensor[:, slice_offset : slice_offset + slice_size], outputs, add_inputs)


def _put(target: Tensor, values: Tensor, add: bool) -> None:
    if add:
        target += values
    else:
        target.copy_(values)


def apply() -> None:
    """Replace vLLM's operations by these. Must be called before the engine is made.

    Raises:
        AttributeError: this version of vLLM has no such operations; then this module must be revised.
    """
    from vllm.lora.ops import torch_ops
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for operation in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
        for module in (lora_ops, torch_ops, punica_cpu):
            getattr(module, operation.__name__)  # raises if vLLM renamed the operation
            setattr(module, operation.__name__, operation)
