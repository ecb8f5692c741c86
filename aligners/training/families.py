"""What the trainer must know about a family of models: which parts are trained, and the positions of its rows.

Rows, masks and losses do not depend on the family. A family is one line in `FAMILIES`, if its transformers model has the parts that all
of these have: an inner model (`model.model`) that takes token ids, a 4-D mask, positions, and the image processor's outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aligners.training.layout import Block
from aligners.training.masks import FULL, WINDOW, carries_state, check_layers
from harness.core.config import Savings
from harness.core.errors import BadInputError
from harness.models.code_families import CODE_FAMILIES, NEVER_RUN
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
        whole_images: types of layers in which an image's tokens see each other in both directions.
        if_configured: they do so only in models whose configuration has `use_bidirectional_attention: vision`.
        grid_positions: image tokens have positions in three dimensions (time, height, width), which the model's `get_rope_index` finds.
        models: names of its models, for docs/families.md.
        note: what a user must know of it, for the same table.
    """

    language: str
    tower: str
    keeping_towers: frozenset[str] = frozenset()
    grid_positions: bool = False
    whole_images: frozenset[str] = frozenset()
    if_configured: bool = False
    models: str = ""
    note: str = ""

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

    def seeing_whole_images(self, config: Any) -> frozenset[str]:
        """Types of layers of this model in which an image's tokens see each other in both directions."""
        said = getattr(config.get_text_config(), "use_bidirectional_attention", None)
        return frozenset() if self.if_configured and said != "vision" else self.whole_images

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

_MERGE = "vLLM serves no adapters of it: merge them (`harness export`)"

FAMILIES: Mapping[str, Family] = {
    "aya_vision": replace(
        _TOWER, models="Aya Vision", note="vLLM on a CPU gives other probabilities, which `harness verify` reports"
    ),
    "gemma3": replace(
        _TOWER,
        models="Gemma 3",
        whole_images=frozenset({FULL, WINDOW}),
        note="in vLLM on a CPU, image tokens attend to earlier ones only, which `harness verify` reports",
    ),
    "gemma4": Family(
        "language_model",
        r"(vision_tower|audio_tower|embed_audio)\.",
        models="Gemma 4",
        whole_images=frozenset({WINDOW}),
        if_configured=True,
        note="in vLLM on a CPU, image tokens of the larger models attend to earlier ones only, which `harness verify` reports",
    ),
    "glm46v": replace(_QWEN, models="GLM-4.6V-Flash", note=_MERGE),
    "glm4v": replace(_QWEN, models="GLM-4.1V-9B"),
    "idefics3": replace(_IDEFICS, models="Idefics3, SmolVLM"),
    "internvl": replace(_TOWER, models="InternVL3, InternVL3.5 (checkpoints with -HF or -hf in their names)"),
    "llava": replace(
        _LLAVA,
        models="LLaVA-1.5, Pixtral-12B (mistral-community)",
        note="vLLM refuses a language model of Qwen2's with windows in some layers",
    ),
    "llava_next": replace(_TOWER, models="LLaVA-1.6 (LLaVA-NeXT)"),
    "llava_onevision": replace(_TOWER, models="LLaVA-OneVision", note=_MERGE),
    "mistral3": replace(_TOWER, models="Mistral Small 3.1, 3.2"),
    "qwen2_5_vl": replace(_QWEN, models="Qwen2.5-VL"),
    "qwen2_vl": replace(_QWEN, models="Qwen2-VL"),
    "qwen3_5": replace(
        _QWEN,
        models="Qwen3.5",
        note="no shared prefix: linear attention passes a state on; vLLM on a CPU in bfloat16 only",
    ),
    "qwen3_5_moe": replace(
        _QWEN,
        models="Qwen3.5 with experts (35B-A3B)",
        note="no shared prefix: linear attention passes a state on; adapters on the attention and the shared expert only",
    ),
    "qwen3_vl": replace(_QWEN, models="Qwen3-VL"),
    "qwen3_vl_moe": replace(
        _QWEN,
        models="Qwen3-VL with experts (30B-A3B, 235B-A22B)",
        note="adapters on the attention only: experts are no linear layers; vLLM 0.32 does not load experts that transformers saved",
    ),
    "smolvlm": replace(_IDEFICS, models="SmolVLM2"),
}
"""By the `model_type` of their configuration."""


@dataclass(frozen=True)
class RefusedFamily:
    """A family that people ask for and that cannot be aligned; `evaluated`: whether it can be evaluated (None: not checked)."""

    models: str
    reason: str
    evaluated: bool | None = None


_PACKED = "its processor packs the images of a batch into one row of patches, which the trainer does not join"

REFUSED: Mapping[str, RefusedFamily] = {
    "gemma3n": RefusedFamily("Gemma 3n", "its vision tower needs the package timm, which the harness does not use"),
    "glm4v_moe": RefusedFamily(
        "GLM-4.5V", "PEFT moves the adapters of its dense layers to its experts, which the canary finds out"
    ),
    "kimi_k25": RefusedFamily(
        "Kimi K2.5", "its attention compresses keys and values, which was not compared with the trainer's layouts"
    ),
    "llama4": RefusedFamily("Llama 4", "its language model attends in chunks, which the trainer's masks do not have"),
    "minicpmv4_6": RefusedFamily("MiniCPM-V 4.6", _PACKED),
    "minicpmv4_7": RefusedFamily("MiniCPM-V 4.7", _PACKED),
    "mllama": RefusedFamily("Llama 3.2 Vision", "its images are read by cross-attention, not as tokens of the prompt"),
    "paligemma": RefusedFamily(
        "PaliGemma, PaliGemma 2", "it has no chat template: its processor writes the prompt", evaluated=False
    ),
    "phi4_multimodal": RefusedFamily(
        "Phi-4-multimodal", "transformers has no image-and-text class for it", evaluated=False
    ),
}
"""By `model_type`; families that are not declared at all are refused without a reason."""


def rows() -> list[dict[str, Any]]:
    """What `harness list families` and docs/families.md say of every family: `family` (the model type), `models`, `can` ("align, eval",
    "eval" or "nothing"), and `about`.
    """
    declared = []
    for name, family in FAMILIES.items():
        parts = [
            "image tokens in three dimensions" if family.grid_positions else "",
            "an image's tokens attend to each other" if family.whole_images and not family.if_configured else "",
            "an image's tokens attend to each other in the larger models" if family.if_configured else "",
            f"features cached for {', '.join(sorted(family.keeping_towers))}" if family.keeping_towers else "",
            family.note,
        ]
        about = "; ".join(filter(None, parts))
        declared.append({"family": name, "models": family.models, "can": "align, eval", "about": about})
    for name, refused in REFUSED.items():
        can = {True: "eval", False: "nothing", None: "eval: not checked"}[refused.evaluated]
        declared.append(
            {"family": name, "models": refused.models, "can": can, "about": f"not aligned: {refused.reason}"}
        )
    for name, (models, instead) in CODE_FAMILIES.items():
        about = "; ".join(filter(None, (NEVER_RUN, instead)))
        declared.append({"family": name, "models": models, "can": "nothing", "about": about})
    return declared


def family_of(model_type: str, where: str | None = None) -> Family:
    """The family of a model type.

    Raises:
        BadInputError: it cannot be aligned.
    """
    if model_type not in FAMILIES:
        if model_type in CODE_FAMILIES:
            models, instead = CODE_FAMILIES[model_type]
            raise BadInputError(
                f"{models} (family '{model_type}') can be neither evaluated nor aligned: it {NEVER_RUN}",
                where=where,
                remedy=instead or "choose a model that transformers supports: harness list models",
            )
        if refused := REFUSED.get(model_type):
            problem = f"{refused.models} (family '{model_type}') cannot be aligned: {refused.reason}"
        else:
            problem = f"models of the family '{model_type}' can be evaluated but not aligned"
        raise BadInputError(
            problem,
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
