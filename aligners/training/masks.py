"""Which positions every kind of layer may look at: all before it, a window of them, or a state that carries them all.

transformers gives a layer its mask by the layer's type (`config.layer_types`), or all layers one mask, which is that of a window where
the configuration names one (`masking_utils.create_masks_for_generate`). Here the same masks are made from a layout's block. A window is
counted in a token's place in its own sequence of image, prompt and response, and not in the row, where other responses may stand
between the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.core.errors import BadInputError

if TYPE_CHECKING:
    from torch import Tensor

    from aligners.training.layout import Block

FULL, WINDOW, STATE = "full_attention", "sliding_attention", "linear_attention"
"""transformers' names of the types of layers that can be trained."""


def layer_types(config: Any) -> list[str] | None:
    """The types of a language model's layers, each once; None where transformers gives all layers one mask."""
    types = getattr(config.get_text_config(), "layer_types", None)
    return None if types is None else sorted(set(types))


def window_of(config: Any) -> int | None:
    """Positions that a layer with a window sees, its own included; None where no layer has one."""
    text = config.get_text_config()
    types = layer_types(config)
    if types is not None and WINDOW not in types:
        return None
    window = getattr(text, "sliding_window", None)
    return None if window is None else int(window)


def carries_state(config: Any) -> bool:
    """Whether layers pass a state from each position to the next (linear attention), whatever a mask says."""
    return STATE in (layer_types(config) or ())


def check_layers(config: Any, where: str | None = None) -> None:
    """Refuse a language model with layers whose masks are not made here.

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


def layer_masks(block: Block, config: Any, dtype: Any, *, whole_images: bool = False) -> Any:
    """The masks of a block, as the language model takes them.

    Args:
        block: on the model's device.
        config: the model's configuration.
        dtype: that attention is computed in.
        whole_images: the tokens of an image see each other in both directions.

    Returns:
        [rows, 1, masked, length] as `attention.additive_mask` gives it; or, where the layers are of named types, a dictionary of them
        by type. Rows of the prefix that look back without a limit are in no mask.
    """
    from aligners.training.kernels.attention import additive_mask

    allowed = block.allowed
    if whole_images:
        allowed = _all_rows(allowed) | _same_image(block, config)
    types, window = layer_types(config), window_of(config)
    masks = {FULL: additive_mask(allowed, dtype)}
    if window is not None:
        windowed = _windowed(allowed, block.order, window)
        masks[WINDOW] = masks[FULL] if windowed is allowed else additive_mask(windowed, dtype)
    if types is None:
        return masks[WINDOW] if window is not None else masks[FULL]
    # Padding stands behind all that is read, so a state needs no mask.
    return {name: masks.get(name) for name in types}


def _windowed(allowed: Tensor, order: Tensor, window: int) -> Tensor:
    """`allowed` within a window; the very same where the window leaves nothing out."""
    import torch

    length = allowed.shape[3]
    if length <= window or int(order.max()) < window:
        return allowed
    # The first positions see less than a window, so they look back as if there were none.
    first = min(length - allowed.shape[2], window)
    near = order[:, first:, None] - order[:, None, :] < window
    return torch.logical_and(_rows_from(allowed, first), near[:, None])


def _rows_from(allowed: Tensor, first: int) -> Tensor:
    """`allowed` with the rows from `first` on: those of the prefix look back without a limit."""
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
    """[rows, 1, length, length] bool: both positions are tokens of one image, whose tokens follow each other."""
    image = block.input_ids == config.image_token_id
    starts = image & ~image.roll(1, 1)
    starts[:, 0] = image[:, 0]
    number = starts.long().cumsum(1) * image
    return ((number[:, :, None] == number[:, None, :]) & image[:, :, None])[:, None]
