"""The language model's layers, as the trainer computes them: with fewer copies, and the last layer only for the responses.

Every family here has the same layer (LLaMA's): a norm, attention with rotary positions, a norm, a gated product. `use` replaces a
layer's forward by `_forward`; modules, weights and their names are not changed. Only the responses' positions of the last layer are
read, and they attend to the prefix through its keys and values: the prefix's queries, attention and gated product are skipped there.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from aligners.training.kernels.attention import NAME, prefix_attention
from aligners.training.kernels.products import AdaptedProduct, Adapter, Gated, GatedProduct, Norm, Rotary

_LAYERS = {
    "LlamaDecoderLayer",
    "MistralDecoderLayer",
    "Qwen2DecoderLayer",
    "Qwen2VLDecoderLayer",
    "Qwen2_5_VLDecoderLayer",
    "Qwen3DecoderLayer",
    "Qwen3VLTextDecoderLayer",
}
"""Classes of transformers whose forward equals `_forward`, which tests check. Others keep their own."""
_SILU = {"SiLU", "SiLUActivation"}


def use(layers: Any, wanted: bool) -> str:
    """Switch layers to the computation above, or back to that of transformers.

    Args:
        layers: layers of the language model, in order.
        wanted: whether to use the computation above.

    Returns:
        "on", "off", or the reason why it is not possible.
    """
    for layer in layers:
        layer.__dict__.pop("forward", None)
    if not wanted:
        return "off"
    if reason := why_not(layers):
        return reason
    for number, layer in enumerate(layers, 1):
        layer.forward = functools.partial(_forward, layer, number == len(layers))
    return "on"


def why_not(layers: Any) -> str | None:
    """Why layers cannot be computed as above; None if they can."""
    unknown = {type(layer).__name__ for layer in layers} - _LAYERS
    if unknown:
        return f"not available for {', '.join(sorted(unknown))}"
    gates = {type(layer.mlp.act_fn).__name__ for layer in layers}
    return None if gates <= _SILU else f"not available for gates with {', '.join(sorted(gates - _SILU))}"


def _forward(
    layer: Any,
    last: bool,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **rest: Any,
) -> Tensor:
    """The forward pass of a layer, for rows that begin with a prefix.

    Without a mask, with a key-value cache, or if a part has hooks (which may gather its weights), the layer's own forward is used.

    Args:
        layer: the module.
        last: whether only the positions under the mask are needed; the others are then 0 in the result.
        hidden_states: [rows, length, width].
        attention_mask: [rows, 1, masked, length], as `attention.additive_mask` gives it.
        past_key_values: key-value cache of generation; the trainer has none.
        position_embeddings: cosine and sine of every position, [rows, length, size].
        rest: further arguments of transformers.

    Returns:
        [rows, length, width].
    """
    attention, mlp = layer.self_attn, layer.mlp
    if (
        past_key_values is not None
        or attention_mask is None
        or position_embeddings is None
        or attention.config._attn_implementation != NAME
        or not _bare(attention, mlp)
    ):
        states: Tensor = type(layer).forward(
            layer,
            hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_embeddings=position_embeddings,
            **rest,
        )
        return states
    prefix = hidden_states.shape[1] - attention_mask.shape[2] if last else 0
    cosine, sine = (part.unsqueeze(1) for part in position_embeddings)

    def heads(projection: Any, inputs: Tensor, norm: Any = None) -> Tensor:
        projected = _product(projection, inputs).unflatten(-1, (-1, attention.head_dim))
        return (projected if norm is None else _norm(norm, projected)).transpose(1, 2)

    normed = _norm(layer.input_layernorm, hidden_states)
    query = heads(attention.q_proj, normed[:, prefix:], getattr(attention, "q_norm", None))
    key = heads(attention.k_proj, normed, getattr(attention, "k_norm", None))
    value = heads(attention.v_proj, normed)
    query = Rotary.apply(query, cosine[:, :, prefix:], sine[:, :, prefix:])
    key = Rotary.apply(key, cosine, sine)
    dropout = attention.attention_dropout if layer.training else 0.0
    seen, _ = prefix_attention(attention, query, key, value, attention_mask, dropout=dropout, scaling=attention.scaling)
    states = _plus(_product(attention.o_proj, seen.flatten(2)), hidden_states[:, prefix:])
    normed = _norm(layer.post_attention_layernorm, states)
    states = _plus(_gated(mlp, normed), states)
    return torch.nn.functional.pad(states, (0, 0, prefix, 0)) if prefix else states


def _plus(fresh: Tensor, stream: Tensor) -> Tensor:
    """The sum, in place in the first argument if its type allows this, because a product's output is not used elsewhere."""
    return fresh.add_(stream) if fresh.dtype == stream.dtype else stream + fresh


def _bare(*modules: Any) -> bool:
    """Whether these modules have no hooks."""
    return not any(one._forward_pre_hooks or one._forward_hooks for one in modules)


def _norm(module: Any, inputs: Tensor) -> Tensor:
    if not _bare(module):
        called: Tensor = module(inputs)
        return called
    normed: Tensor = Norm.apply(inputs, module.weight, module.variance_epsilon)
    return normed


def _product(module: Any, inputs: Tensor) -> Tensor:
    adapter = _adapter(module, inputs)
    if adapter is None:
        plain: Tensor = module(inputs)
        return plain
    adapted: Tensor = AdaptedProduct.apply(inputs, module.base_layer.weight, module.base_layer.bias, *adapter)
    return adapted


def _gated(mlp: Any, inputs: Tensor) -> Tensor:
    gate, other = _product(mlp.gate_proj, inputs), _product(mlp.up_proj, inputs)
    down = mlp.down_proj
    adapter = _adapter(down, gate)
    if adapter is None:
        plain: Tensor = down(Gated.apply(gate, other))
        return plain
    adapted: Tensor = GatedProduct.apply(gate, other, down.base_layer.weight, down.base_layer.bias, *adapter)
    return adapted


def _adapter(module: Any, inputs: Tensor) -> Adapter | None:
    """The adapter of a linear layer with exactly one plain adapter and one type; None if the module itself must be called."""
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return None
    name = module.active_adapters[0]
    base = module.base_layer
    if name not in module.lora_A:
        return None
    dropout, down, up = (part[name] for part in (module.lora_dropout, module.lora_A, module.lora_B))
    if (
        not _bare(module, base, down, up)
        or (module.training and not isinstance(dropout, torch.nn.Identity))
        or name in module.lora_variant
        or type(base) is not torch.nn.Linear
        or base.weight.requires_grad
        or base.weight.dtype != inputs.dtype
        or (
            torch.is_autocast_enabled(inputs.device.type)
            and torch.get_autocast_dtype(inputs.device.type) != inputs.dtype
        )
    ):
        return None
    return Adapter(down.weight, up.weight, module.scaling[name])
