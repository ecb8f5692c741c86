"""What the trainer must know about a family of models: which parts are trained, and the positions of its rows.

Rows, masks and losses do not depend on the family. A family is one line in `FAMILIES`, if its transformers model has the parts that all
of these have: an inner model (`model.model`) that takes token ids, a 4-D mask, positions, and the image processor's outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aligners.training.layout import Block
from aligners.training.masks import carries_state, check_layers
from harness.core.config import Savings
from harness.core.errors import BadInputError
from harness.models.pretrained import configuration

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Family:
    """A family that can be aligned.

    Attributes:
        language: the language model's name in the inner model.
        tower: the vision tower's, as a regular expression of the weights that are not trained. The projector is not part of it, even if
        it is stored inside (Qwen's mergers).
        keeping_towers: `model_type`s of towers whose features have the same shape for every image size, so that they can be cached.
        whole_images: an image's tokens see each other in both directions.
        grid_positions: image tokens have positions in three dimensions (time, height, width), which the model's `get_rope_index` finds.
    """

    language: str
    tower: str
    keeping_towers: frozenset[str] = frozenset()
    grid_positions: bool = False
    whole_images: bool = False

    def not_possible(self, config: Any) -> dict[str, str]:
        """The trainer's savings that are not possible for a model of this family, each with the reason."""
        reasons = {}
        tower = getattr(getattr(config, "vision_config", None), "model_type", None)
        if tower not in self.keeping_towers:
            what = f"the tower '{tower}'" if self.keeping_towers else config.model_type
            reasons["feature_cache"] = f"not available for {what}: images are encoded in every step"
        if carries_state(config):
            reasons["shared_prefix"] = "not available with linear attention: every response has a row of its own"
        return reasons

    def trained_in_full(self, name: str) -> bool:
        """Whether full tuning trains the weight of this name: all but the vision tower's."""
        return re.search(rf"(^|\.){self.tower}", name) is None

    def positions(self, inner: Any, block: Block) -> Tensor:
        """The position ids of a block's rows for the inner model.

        Args:
            inner: the model's inner model; only its configuration is checked.
            block: with `image_inputs`, on the CPU.

        Returns:
            [rows, length] from the layout; or, for a family with grid positions, [3, rows, length]: in the prefix as computed by the
            model; a response continues from the maximum of these in all dimensions, and each branch restarts there.
        """
        if not self.grid_positions:
            return block.position_ids
        import torch

        prefixes = torch.tensor(block.prefixes)[:, None]
        inside = torch.arange(block.input_ids.shape[1]) < prefixes
        in_prefix, shift = inner.get_rope_index(
            input_ids=block.input_ids,
            mm_token_type_ids=(block.input_ids == inner.config.image_token_id).int(),
            image_grid_thw=block.image_inputs["image_grid_thw"],
            attention_mask=inside.long(),
        )
        # The shift is the difference between a prefix's maximum position and its length.
        return torch.where(inside, in_prefix, block.position_ids + shift)


_LLAVA = Family(
    "language_model", r"vision_tower\.", keeping_towers=frozenset({"clip_vision_model", "siglip_vision_model"})
)
_QWEN = Family("language_model", r"visual\.(?!merger\.|deepstack_merger_list\.)", grid_positions=True)
_IDEFICS = Family("text_model", r"vision_model\.")
_TOWER = Family("language_model", r"vision_tower\.")

FAMILIES: Mapping[str, Family] = {
    "aya_vision": _TOWER,
    "gemma3": Family("language_model", r"vision_tower\.", whole_images=True),
    "idefics3": _IDEFICS,
    "llava": _LLAVA,
    "llava_next": _TOWER,
    "qwen2_5_vl": _QWEN,
    "qwen2_vl": _QWEN,
    "qwen3_5": _QWEN,
    "qwen3_vl": _QWEN,
    "smolvlm": _IDEFICS,
}
"""By the `model_type` of their configuration."""


def family_of(model_type: str, where: str | None = None) -> Family:
    """The family of a model type.

    Raises:
        BadInputError: it cannot be aligned.
    """
    if model_type not in FAMILIES:
        raise BadInputError(
            f"models of the family '{model_type}' can be evaluated but not aligned",
            where=where,
            remedy=f"families that can be aligned: {', '.join(FAMILIES)} (harness list models)",
        )
    return FAMILIES[model_type]


def check_family(location: str) -> Any:
    """Refuse families that cannot be trained, before weights are loaded; returns the model's configuration.

    Raises:
        BadInputError: it is not in `FAMILIES`, or its language model has layers that the trainer does not support.
    """
    config = configuration(location)
    family_of(config.model_type, location)
    check_layers(config, location)
    return config


def possible_savings(config: Any, wanted: Savings) -> Savings:
    """The requested savings without those that are not possible for a model."""
    return wanted.model_copy(update=dict.fromkeys(family_of(config.model_type).not_possible(config), False))
