"""The memory of training, predicted from the architecture before anything is loaded.

Source: Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, MLSys 2023: the activations that a transformer
layer stores for its backward pass. They count a GPT layer in 16 bits with dropout; this module counts a gated layer with rotary
positions and without dropout (LLaMA, Qwen2), in the type of the computation, as implemented by transformers and PEFT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aligners.training.adapters import adapted_modules
from aligners.training.families import family_of
from aligners.training.kernels.layers import why_not
from aligners.training.layout import group_by_length
from aligners.training.policy import CHUNK
from harness.core.config import TrainSettings
from harness.models import linear_layers
from harness.models.pretrained import configuration, empty_model

_FLOAT32 = 4
_MOMENTS = 2 * _FLOAT32
"""Bytes of AdamW's two moments per trained weight."""
_NF4 = 1 / 2 + 1 / 64 + _FLOAT32 / (64 * 256)
"""Bytes of a weight in 4 bits with double quantisation: 64 weights share a byte, and 256 such bytes share a float32.

Source: Dettmers et al., QLoRA, NeurIPS 2023, section 3: 0.127 bits per weight in addition to the 4."""


@dataclass(frozen=True)
class Architecture:
    """The properties of a model that determine its memory.

    Attributes:
        weights: number of parameters; trained: trained ones (of the adapters, if there are any); in_4_bits: those stored in 4 bits.
        largest: size of the largest matrix in 4 bits, which is dequantised when it is used.
        in_layers: number of parameters in the language model's layers.
        layers, width, inner, heads, key_width, vocabulary: of the language model; key_width is the total width of a token's keys.
        lean: its layers can be computed by `kernels.layers`.
    """

    weights: int
    trained: int
    in_4_bits: int
    largest: int
    in_layers: int
    layers: int
    width: int
    inner: int
    heads: int
    key_width: int
    vocabulary: int
    lean: bool


@dataclass(frozen=True)
class Shares:
    """How processes shard a training.

    Attributes:
        processes: number of processes.
        weights: weights, gradients and moments are sharded (FSDP 2), after every process has loaded and used the whole model.
        moments: the moments are sharded, and so are the float32 copies that DeepSpeed's ZeRO has in addition.
    """

    processes: int = 1
    weights: bool = False
    moments: bool = False


ALONE = Shares()
"""One process."""


@dataclass(frozen=True)
class Footprint:
    """Bytes at the peak of a training: in a step, or before the weights are sharded.

    Attributes:
        weights: the model, including adapters and copies.
        gradients: gradients of trained weights.
        optimizer: AdamW's moments of trained weights.
        activations: stored for, and made by, the backward pass of one micro-batch.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


def architecture(location: str, train: TrainSettings) -> Architecture:
    """Build the model on the meta device and count its parameters.

    Raises:
        OSError: there is no such model.
        BadInputError: it cannot be aligned.
    """
    config = configuration(location)
    family = family_of(config.model_type, location)
    model = empty_model(location, config)
    weights = sum(one.numel() for one in model.parameters())
    if train.tuning == "full":
        trained = sum(one.numel() for name, one in model.named_parameters() if family.trained_in_full(name))
    else:
        linear = [model.get_submodule(path) for path in adapted_modules(model, train.lora).paths]
        trained = sum(train.lora.rank * (one.in_features + one.out_features) for one in linear)
    held = [one.weight.numel() for one in linear_layers(model)[0].values()] if train.tuning == "qlora" else []
    text = config.get_text_config()
    head = _largest(text, "head_dim") or text.hidden_size // text.num_attention_heads
    return Architecture(
        weights,
        trained,
        sum(held),
        max(held, default=0),
        sum(one.numel() for one in model.model.get_submodule(family.language).layers.parameters()),
        text.num_hidden_layers,
        text.hidden_size,
        _largest(text, "intermediate_size"),
        text.num_attention_heads,
        head * (_largest(text, "num_key_value_heads") or text.num_attention_heads),
        text.vocab_size,
        why_not(model.model.get_submodule(family.language).layers) is None,
    )


def _largest(text: Any, name: str) -> int:
    """A language model's size, the largest of all layers: those of Gemma 4 differ. 0 if the configuration does not have it."""
    layers = (text.per_layer_config[number] for number in range(text.num_hidden_layers))
    return max((getattr(layer, name, None) or 0 for layer in layers), default=0)


def footprint(
    model: Architecture,
    train: TrainSettings,
    *,
    bfloat16: bool,
    copy: bool,
    rows: Sequence[int],
    responses: int,
    shares: Shares = ALONE,
) -> Footprint:
    """The peak of a training whose micro-batch has these rows.

    If the weights are sharded, it is that of a step, or of the passes before: every process has the whole model until the training loop
    begins, and measures with it (`Session.values`).

    Args:
        model: from `architecture`. train: tuning, checkpointing, savings.
        bfloat16: whether it is computed in bfloat16.
        copy: the method needs the reference's distribution: if all weights are trained, a copy of the initial model is kept.
        rows: tokens of each row of the micro-batch.
        responses: response tokens of the micro-batch, over all branches.
        shares: sharding over processes.
    """
    full = train.tuning == "full"
    size = 2 if bfloat16 else _FLOAT32
    weights = (model.weights - model.in_4_bits) * (_FLOAT32 if full else size) + round(model.in_4_bits * _NF4)
    initial = model.weights * _FLOAT32 if full and copy else 0  # not a part of the model, so it is never sharded
    if full:
        # Autocast also keeps the weights in bfloat16 as long as the graph exists, or the pass lasts.
        weights += model.weights * 2 * bfloat16
    else:
        weights += model.trained * (_FLOAT32 + 2 * bfloat16)
    blocks = [(len(block), max(rows[number] for number in block)) for block in group_by_length(rows)]
    activations = _activations(model, train, size, copy, blocks, responses) + model.largest * size
    gradients, moments = model.trained * _FLOAT32, model.trained * _MOMENTS
    before = Footprint(weights + initial, 0, 0, _forward(model, train, size, blocks, responses))
    if shares.weights:
        # Layers are gathered one by one, with the next one prefetched; everything else is gathered for the whole step.
        gathered = model.weights - model.in_layers + 2 * model.in_layers // model.layers
        weights = weights // shares.processes + gathered * (_FLOAT32 if full else size)
        gradients, moments = gradients // shares.processes, moments // shares.processes
    elif shares.moments:
        moments = (moments + model.trained * _FLOAT32) // shares.processes
    step = Footprint(weights + initial, gradients, moments, activations)
    return max(step, before, key=lambda one: one.total) if shares.weights else step


def _forward(
    model: Architecture, train: TrainSettings, size: int, blocks: Sequence[tuple[int, int]], responses: int
) -> int:
    """Bytes of the activations of a pass without gradient; `blocks` are those of a step's micro-batch."""
    tokens = sum(rows * length for rows, length in blocks)
    masks = responses * max(length for _, length in blocks) * (1 + size)
    head = 2 * responses * model.vocabulary * _FLOAT32  # sharded, the logits are one chunk
    # Without gradient, twice the micro-batch goes through the model, unless memory is short.
    share = 1 if train.gradient_checkpointing else 2
    return share * (tokens * model.width * size + masks + max(_layer(model, train, size, tokens), head))


def _activations(
    model: Architecture,
    train: TrainSettings,
    size: int,
    copy: bool,
    blocks: Sequence[tuple[int, int]],
    responses: int,
) -> int:
    """Bytes of a micro-batch's activations; `blocks` are (rows, padded length)."""
    tokens = sum(rows * length for rows, length in blocks)
    layer = _layer(model, train, size, tokens)
    last = layer
    if model.lean and train.savings.lean_layers:
        # For the prefix only the residual stream, its norm, keys and values.
        behind = min(tokens, responses + sum(rows for rows, _ in blocks))
        last = _layer(model, train, size, behind) + 2 * (tokens - behind) * (model.width + model.key_width) * size
    width, inner = model.width, model.inner
    inputs = model.layers * tokens * width * size
    kept = inputs + layer if train.gradient_checkpointing else (model.layers - 1) * layer + last
    backward = tokens * (2 * width + 3 * inner) * size
    # Masks have as many rows as the responses have tokens.
    masks = responses * max(length for _, length in blocks) * (1 + size)
    chunk = min(CHUNK, responses) if train.savings.chunked_logits else responses
    # A head that is not trained computes its gradient in place of the logits (`frozen_head`), unless the initial model's logits are
    # needed, too.
    copies = 2 if train.savings.chunked_logits and train.adapters and not copy else 4
    head = copies * chunk * model.vocabulary * _FLOAT32 + 2 * tokens * width * size
    # The head's gradients are freed before those of the last layer are computed.
    return kept + masks + max(backward, head)


def _layer(model: Architecture, train: TrainSettings, size: int, tokens: int) -> int:
    """Bytes that a layer stores for its backward pass."""
    width, inner, keys = model.width, model.inner, model.key_width
    lean = model.lean and train.savings.lean_layers
    adapted = lean and train.tuning == "lora" and not train.lora.dropout  # all other layers use PEFT's own adapters
    # Per token: the residual stream and its norm, twice; queries, keys and values; attention's output; and the gate and the other half,
    # with their product if the next layer stores it, and the gate's activation if that is a separate operation.
    halves = 4 - lean - adapted
    numbers = tokens * (6 * width + halves * inner + 2 * keys)
    if train.tuning == "full":
        numbers += tokens * 2 * width * (not lean)  # the input of the multiplication with a trained norm's weight
    else:
        numbers += tokens * 7 * train.lora.rank
        if size == 2 and not adapted:
            # PEFT casts the inputs to the adapters' type, and autocast casts them back, one by one.
            numbers += tokens * (6 * width + inner)
    # Of attention's weights, the fused kernel stores one number per head and token.
    return numbers * size + tokens * model.heads * _FLOAT32
