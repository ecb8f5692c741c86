"""Adapters that vLLM does not accept as they are: fused products are written as single ones, and what cannot be served is refused.

Phi-3 computes queries, keys and values in one product (`qkv_proj`), and both halves of its gate in another (`gate_up_proj`). vLLM fuses
these itself in the language models of its LLaVA classes and accepts only adapters of the single products. B of a fused product is the
concatenation of the single products' rows, and A is common to all; so the adapter is written exactly with the same A three times or
twice.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError
from harness.core.files import atomic_folder, read_json
from harness.core.paths import cache_folder
from harness.models import fingerprint, pretrained
from harness.models.weights import safetensors_shapes

_FAMILIES = {"llava", "llava_next"}
"""Families whose classes in vLLM 0.32 accept only the single products' names (`packed_modules_mapping`)."""
_WITHOUT_ADAPTERS = {"glm46v", "llava_onevision"}
"""Families whose adapters vLLM 0.32 cannot load."""
_OUTSIDE = re.compile(
    r"\.(vision_tower|vision_model|vision_embed_tokens|visual|multi_modal_projector|connector|embed_vision)\."
)
"""Names of vision towers and projectors, where vLLM leaves an adapter out without saying so."""
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def single_products(adapter: Path, base: str | Path) -> Path:
    """The adapter's folder, or a rewritten copy in the cache for vLLM.

    Args:
        adapter: a PEFT adapter's folder.
        base: folder or hub id of its base.

    Raises:
        BadInputError: vLLM takes no adapters of this family, or would ignore a part of this one.
    """
    config = pretrained.configuration(base)
    if config.model_type in _WITHOUT_ADAPTERS:
        raise BadInputError(
            f"vLLM serves no adapters of the family '{config.model_type}'",
            where=str(adapter),
            remedy="merge it into its base (harness export RUN -o DIR) and name DIR as the --model, or use --backend transformers",
        )
    fused = "|".join(_FUSED)
    names = list(safetensors_shapes(adapter / "adapter_model.safetensors"))
    if outside := next((name for name in names if _OUTSIDE.search(name)), None):
        raise BadInputError(
            f"vLLM applies an adapter to the language model only, and this one changes other parts of the model, too, first '{outside}'",
            where=str(adapter),
            remedy="merge it into its base (harness export ADAPTER -o DIR) and name DIR as the --model, or use --backend transformers",
        )
    if not any(re.search(rf"\.({fused})\.", name) for name in names):
        return adapter
    if config.model_type not in _FAMILIES:
        return adapter
    folder = cache_folder() / "adapters" / f"single-{fingerprint(adapter)[:32]}"
    if not (folder / "adapter_config.json").exists():
        _write(adapter, folder, config.get_text_config())
    return folder


def _write(adapter: Path, folder: Path, text: Any) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {}
    for name, value in load_file(adapter / "adapter_model.safetensors").items():
        module, _, rest = name.rpartition(".lora_")
        parent, _, kind = module.rpartition(".")
        if kind not in _FUSED:
            tensors[name] = value
            continue
        parts = value.split(_rows(kind, text)) if rest.startswith("B") else [value] * len(_FUSED[kind])
        for single, part in zip(_FUSED[kind], parts, strict=True):
            tensors[f"{parent}.{single}.lora_{rest}"] = part.clone()
    config = read_json(adapter / "adapter_config.json", "adapter configuration")
    kinds = sorted({name.rpartition(".lora_")[0].rpartition(".")[2] for name in tensors})
    for pattern in ("rank_pattern", "alpha_pattern"):
        config[pattern] = _single_keys(config.get(pattern) or {})
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
        (temporary / "adapter_config.json").write_text(
            json.dumps({**config, "target_modules": kinds}, indent=1) + "\n", encoding="utf-8"
        )


def _rows(kind: str, text: Any) -> list[int]:
    """Number of rows of each single product in the fused one."""
    if kind == "gate_up_proj":
        return [text.intermediate_size] * 2
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return [text.num_attention_heads * size, *[text.num_key_value_heads * size] * 2]


def _single_keys(pattern: dict[str, Any]) -> dict[str, Any]:
    """A pattern by module name, with the names of the single products."""
    single_keys = {}
    for key, value in pattern.items():
        kind = next((fused for fused in _FUSED if key.endswith(fused)), None)
        for name in (key,) if kind is None else (key.removesuffix(kind) + part for part in _FUSED[kind]):
            single_keys[name] = value
    return single_keys
