"""Our LoRA operations against the definition, token by token, and against vLLM's own where those are right."""

from __future__ import annotations

import pytest
import torch

from harness.serving import cpu_lora

WIDTH, RANK, OUT = 6, 3, 5


@pytest.fixture
def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    down, up = torch.randn(2, 1, RANK, WIDTH), torch.randn(2, 1, OUT, RANK)
    return torch.randn(7, WIDTH), down, up, torch.tensor([0, 1, -1, 1, 0, -1, 1])


def test_every_token_gets_its_own_adapter_and_the_base_none(parts: tuple[torch.Tensor, ...]) -> None:
    inputs, down, up, indices = parts
    middle, outputs = torch.full((7, RANK), 9.0), torch.ones(7, OUT)
    cpu_lora.bgmv_shrink(inputs, down, middle, indices, 0.5)
    cpu_lora.bgmv_expand(middle, up, outputs, indices, add_inputs=True)
    for token, slot in enumerate(indices.tolist()):
        expected = torch.ones(OUT) if slot < 0 else 1 + up[slot, 0] @ (0.5 * down[slot, 0] @ inputs[token])
        torch.testing.assert_close(outputs[token], expected)


def test_a_slice_leaves_the_other_columns_alone(parts: tuple[torch.Tensor, ...]) -> None:
    inputs, _, _, indices = parts
    up, outputs = torch.randn(2, 1, 2, WIDTH), torch.zeros(7, OUT)
    cpu_lora.bgmv_expand_slice(inputs, up, outputs, indices, 1, 2, add_inputs=True)
    assert (outputs[:, [0, 3, 4]] == 0).all()
    for token, slot in enumerate(indices.tolist()):
        torch.testing.assert_close(outputs[token, 1:3], torch.zeros(2) if slot < 0 else up[slot, 0] @ inputs[token])


def test_vllms_own_agree_where_no_token_is_the_bases(parts: tuple[torch.Tensor, ...]) -> None:
    ops = pytest.importorskip("vllm.lora.ops.torch_ops.lora_ops")
    inputs, down, up, _ = parts
    indices = torch.tensor([0, 1, 1, 1, 0, 0, 1])
    results = []
    for kernels in (ops, cpu_lora):
        middle, outputs = torch.zeros(7, RANK), torch.ones(7, OUT)
        kernels.bgmv_shrink(inputs, down, middle, indices, 2.0)
        kernels.bgmv_expand(middle, up, outputs, indices, add_inputs=True)
        results.append(outputs)
    torch.testing.assert_close(results[0], results[1])
