"""An adapter of fused products, written out for the single ones, adds the same to every product."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from aligners.training.adapters import adapted_modules
from harness.core.config import LoraSettings
from harness.core.errors import BadInputError
from harness.models import export_full
from harness.serving.unfused import single_products
from tests.tiny import tiny_parts
from tests.tiny_variants import tiny_phi3


def test_a_fused_adapter_is_the_same_in_its_parts(tmp_path: Path) -> None:
    model, processor = tiny_phi3()
    export_full(model, processor, tmp_path / "base")
    from peft import LoraConfig, get_peft_model

    pattern = adapted_modules(model, LoraSettings()).pattern
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=pattern, rank_pattern={"qkv_proj": 8}))
    for name, value in wrapped.named_parameters():
        if ".lora_" in name:
            value.data = torch.randn(value.shape)
    wrapped.save_pretrained(tmp_path / "adapter")
    repaired = single_products(tmp_path / "adapter", tmp_path / "base")
    assert repaired != tmp_path / "adapter" and single_products(tmp_path / "adapter", tmp_path / "base") == repaired
    before, after = (load_file(one / "adapter_model.safetensors") for one in (tmp_path / "adapter", repaired))
    config = json.loads((repaired / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {"q_proj": 8, "k_proj": 8, "v_proj": 8}
    kinds = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert config["target_modules"] == kinds
    inputs = torch.randn(5, 64)
    text = model.config.get_text_config()
    for layer in range(2):
        for part, fused, singles in (
            ("self_attn", "qkv_proj", ("q_proj", "k_proj", "v_proj")),
            ("mlp", "gate_up_proj", ("gate_proj", "up_proj")),
        ):
            stem = f"base_model.model.model.language_model.layers.{layer}.{part}"

            def added(tensors: dict[str, torch.Tensor], kind: str, stem: str = stem) -> torch.Tensor:
                down, up = (tensors[f"{stem}.{kind}.lora_{side}.weight"] for side in "AB")
                return functional.linear(functional.linear(inputs, down), up)

            together = torch.cat([added(after, single) for single in singles], -1)
            torch.testing.assert_close(together, added(before, fused))
        assert after[f"base_model.model.model.language_model.layers.{layer}.self_attn.k_proj.lora_B.weight"].shape == (
            text.num_key_value_heads * 32,
            8,
        )
    assert not any("qkv" in name or "gate_up" in name for name in after)


def test_an_adapter_without_fused_products_is_left_as_it_is(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model, processor = tiny_parts()
    export_full(model, processor, tmp_path / "base")
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=adapted_modules(model, LoraSettings()).pattern))
    wrapped.save_pretrained(tmp_path / "adapter")
    assert single_products(tmp_path / "adapter", tmp_path / "base") == tmp_path / "adapter"


@pytest.mark.parametrize("part", ["vision_tower", "multi_modal_projector"])
def test_an_adapter_outside_of_the_language_model_is_refused(part: str, tmp_path: Path) -> None:
    """vLLM would serve the rest of it without a word."""
    from peft import LoraConfig, get_peft_model

    model, processor = tiny_parts()
    export_full(model, processor, tmp_path / "base")
    targets = rf".*(language_model.*q_proj|{part}.*(q_proj|linear_1))"
    get_peft_model(model, LoraConfig(r=4, target_modules=targets)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(BadInputError, match="to the language model only") as caught:
        single_products(tmp_path / "adapter", tmp_path / "base")
    assert part in caught.value.problem and "harness export" in str(caught.value.remedy)
