"""Attention masks by type of layer: full causal, sliding window, or none for a recurrent state (linear attention).

transformers gives a layer its mask by the layer's type (`config.layer_types`), or one mask to all layers, which is that of a window if
the configuration has one (`masking_utils.create_masks_for_generate`). Here the same masks are made from a layout's block. A window
counts tokens in their own sequence of image, prompt and response, not in the row, which may have other responses in between.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from harness.core.errors import BadInputError

if TYPE_CHECKING:
    from torch import Tensor

    from aligners.training.layout import Block

FULL, WINDOW, STATE = "full_attention", "sliding_attention", "linear_attention"
"""transformers' names of the layer types that can be trained."""


def layer_types(config: Any) -> list[str] | None:
    """The types of a language model's layers, each once; None if transformers gives all layers the same mask."""
    types = getattr(config.get_text_config(), "layer_types", None)
    return None if types is None else sorted(set(types))


def window_of(config: Any) -> int | None:
    """Number of positions in the window of a layer, its own included; None if no layer has a window."""
    text = config.get_text_config()
    types = layer_types(config)
    if types is not None and WINDOW not in types:
        return None
    window = getattr(text, "sliding_window", None)
    return None if window is None else int(window)


def carries_state(config: Any) -> bool:
    """Whether layers pass a state from each position to the next (linear attention), independent of masks."""
    return STATE in (layer_types(config) or ())


def check_layers(config: Any, where: str | None = None) -> None:
    """Refuse a language model with unsupported layer types.

    Raises:
        BadInputError: it has such layers.
    """
    unknown = set(layer_types(config) or ()) - {FULL, WINDOW, STATE}
    if not unknown and layer_types(config) is None and getattr(config.get_text_config(), "attention_chunk_size", None):
        unknown = {"chunked_attention"}
    if unknown:
        raise BadInputError(
            f"the language model has layers of the type {', '.join(sorted(unknown))}, whose attention the trainer does not support",
            where=where,
            remedy=f"the model can be evaluated; supported types: {FULL}, {WINDOW}, {STATE}",
        )


def layer_masks(block: Block, config: Any, dtype: Any, *, whole_images: Collection[str] = ()) -> Any:
    """The masks of a block for the language model.

    Args:
        block: on the model's device.
        config: the model's configuration.
        dtype: type of the attention's computation.
        whole_images: types of layers in which the tokens of an image attend to each other in both directions.

    Returns:
        [rows, 1, masked, length] as `attention.additive_mask` gives it; or, if the layers have named types, a dictionary of masks by
        type. Positions of the prefix with plain causal attention are not part of a mask.
    """
    from aligners.training.kernels.attention import additive_mask

    causal = block.allowed
    whole = _all_rows(causal) | _same_image(block, config) if whole_images else causal
    allowed = {kind: whole if kind in whole_images else causal for kind in (FULL, WINDOW)}
    types, window = layer_types(config), window_of(config)
    masks = {FULL: additive_mask(allowed[FULL], dtype)}
    if window is not None:
        windowed = _windowed(allowed[WINDOW], block.order, window)
        masks[WINDOW] = masks[FULL] if windowed is allowed[FULL] else additive_mask(windowed, dtype)
    if types is None:
        return masks[WINDOW] if window is not None else masks[FULL]
    # Padding follows everything that is read, so a state needs no mask.
    return {name: masks.get(name) for name in types}


def _windowed(allowed: Tensor, order: Tensor, window: int) -> Tensor:
    """`allowed` restricted to a window; the same object if the window excludes nothing."""
    import torch

    length = allowed.shape[3]
    if length <= window or int(order.max()) < window:
        return allowed
    # The first positions have fewer predecessors than a window, so they are plain causal.
    first = min(length - allowed.shape[2], window)
    near = order[:, first:, None] - order[:, None, :] < window
    return torch.logical_and(_rows_from(allowed, first), near[:, None])


def _rows_from(allowed: Tensor, first: int) -> Tensor:
    """`allowed` extended to the positions from `first` on: those of the prefix are plain causal."""
    import torch

    length, masked = allowed.shape[3], allowed.shape[2]
    missing = length - masked - first
    if missing <= 0:
        return allowed
    before = torch.ones(length, length, dtype=torch.bool, device=allowed.device).tril()[first : first + missing]
    return torch.cat([before.expand(allowed.shape[0], 1, -1, -1), allowed], 2)


def _all_rows(allowed: Tensor) -> Tensor:
    return _rows_from(allowed, 0)


def _same_image(block: Block, config: Any) -> Tensor:
    """[rows, 1, length, length] bool: both positions are tokens of the same image; an image's tokens are adjacent."""
    image = block.input_ids == config.image_token_id
    starts = image & ~image.roll(1, 1)
    starts[:, 0] = image[:, 0]
    number = starts.long().cumsum(1) * image
    return ((number[:, :, None] == number[:, None, :]) & image[:, :, None])[:, None]
