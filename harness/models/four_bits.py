"""Bases held in 4 bits, for QLoRA: which layers, how, and as what they may be trained through.

Source: Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, NeurIPS 2023, sections 3 and 4.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from harness.core.packages import need_package
from harness.models import pretrained

_LANGUAGE = re.compile(r"\b(language_model|text_model)\.")
"""What the families call their language model (Idefics3 the latter; no vision tower in them is called so)."""


def linear_layers(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Linear layers by name: those that are held in 4 bits where a model is (the language model's blocks'), and all others."""
    import torch

    inside: dict[str, Any] = {}
    outside: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            (inside if _LANGUAGE.search(name) else outside)[name] = module
    return inside, outside


def four_bit_config(location: str | Path, dtype: str) -> Any:
    """How QLoRA holds a base: NF4 with double quantisation; vision tower, projector, embeddings and head as they are.

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

    With AVX512 it does so in place, at the first pass in evaluation mode, and computes in bfloat16 from then on: the reference's
    values would be of other arithmetic than the policy's, and the backward pass would read packed weights as if they were not.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
