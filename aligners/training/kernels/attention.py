"""Attention over rows that begin with a prefix: causal in the prefix, masked after it.

A row is `[prefix | response 1 | response 2 ...]` (`layout`). The prefix needs no mask, so the fused causal kernel computes it with half
of the products; only the responses' few queries need a mask, of their height. With 636 prefix and 240 response
tokens that is 54 % of the products of one square mask, with LLaVA-1.6's 2,940 and 240 it is 50 %, and no square mask is ever in memory.
"""

from __future__ import annotations

from typing import Any

import torch

from harness.models import quiet_transformers

NAME = "prefix"
"""Name of this implementation in transformers' registry."""


def use(model: Any) -> None:
    """Make a model's language part accept the masks of `additive_mask`. Square masks, and no mask, keep their usual meaning."""
    quiet_transformers()
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, prefix_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation({"text_config": NAME})


def additive_mask(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values added to the products: 0 where a position may attend, and the type's lowest value elsewhere.

    Args:
        allowed: [rows, 1, masked, length] bool; the first `length - masked` positions are causal. dtype: type of the attention's
        computation.

    Returns:
        The same shape.
    """
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)


def prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a row's last positions under a mask, and of the positions before them causally.

    Args:
        module: the layer's attention.
        query: [rows, heads, length, size]; or only those of the masked positions of a longer row.
        key: [rows, key heads, length, size].
        value: as `key`.
        attention_mask: [rows, 1, masked, length], added to the products; the first `length - masked` positions are causal.
            None makes all of them so.
        scaling: factor of the products; default: one over the square root of the head's size.
        dropout: probability of dropout on the weights.
        rest: further arguments of transformers; only `is_causal` is used.

    Returns:
        [rows, length, heads, size]; and None instead of the weights, which are never in memory.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, None, dropout, scaling, rest.get("is_causal"))
    masked = attention_mask.shape[2]
    prefix = query.shape[2] - masked
    early, late = query.split([prefix, masked], 2)
    behind, _ = sdpa_attention_forward(module, late, key, value, attention_mask, dropout, scaling)
    if not prefix:
        return behind, None
    seen = (early, key[:, :, :prefix], value[:, :, :prefix])
    before, _ = sdpa_attention_forward(module, *seen, None, dropout, scaling, is_causal=True)
    return torch.cat([before, behind], 1), None
