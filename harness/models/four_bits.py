"""Bases in 4 bits for QLoRA: which layers are quantised, how, and how to train through them.

Source: Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, NeurIPS 2023, sections 3 and 4.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from harness.core.packages import need_package
from harness.models import pretrained

_LANGUAGE = re.compile(r"\b(language_model|text_model)\.")
"""Names of the language model in the families (the latter in Idefics3; no vision tower has these names)."""


def linear_layers(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Linear layers by name: those that are quantised to 4 bits (in the language model's blocks), and all others."""
    import torch

    inside: dict[str, Any] = {}
    outside: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            (inside if _LANGUAGE.search(name) else outside)[name] = module
    return inside, outside


def four_bit_config(location: str | Path, dtype: str) -> Any:
    """QLoRA's quantisation: NF4 with double quantisation; vision tower, projector, embeddings and head are not quantised.

    Raises:
        MissingPackageError: bitsandbytes is not installed.
    """
    import torch
    from transformers import BitsAndBytesConfig

    need_package("bitsandbytes", "a base in 4 bits (--qlora)")
    model = pretrained.empty_model(location)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=list(linear_layers(model)[1]),
    )


def keep_trainable(model: Any) -> None:
    """Keep bitsandbytes from packing the weights for inference on CPUs.

    With AVX512 it packs in place at the first pass in evaluation mode, and then computes in bfloat16: the reference's values would use
    other arithmetic than the policy's, and the backward pass would misread packed weights.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
