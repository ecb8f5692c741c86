"""Attention that knows the prefix, and the head that is not trained, against plain arithmetic in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aligners.training.kernels.attention import additive_mask, prefix_attention
from aligners.training.kernels.frozen_head import FrozenHead
from harness.models import quiet_transformers


@pytest.fixture(scope="module", autouse=True)
def transformers_is_imported_as_everywhere() -> None:
    quiet_transformers()


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
    """Attention by its definition; `sees` [rows, length, length]."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    products = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
    return (products.masked_fill(~sees[:, None], -math.inf).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("prefix", [0, 150])
def test_attention_under_a_short_mask_is_that_under_the_square_one(prefix: int) -> None:
    torch.manual_seed(0)
    rows, heads, groups, size, length = 2, 4, 2, 8, 320
    masked = length - prefix
    # Two responses that do not see each other, the second row's prefix longer than what is causal in both.
    allowed = torch.ones(rows, masked, length, dtype=torch.bool).tril(prefix)
    half = masked // 2
    allowed[:, half:, prefix + 20 : prefix + half] = False
    sees = torch.cat([torch.ones(prefix, length, dtype=torch.bool).tril().expand(rows, -1, -1), allowed], 1)
    tensors = [
        torch.randn(rows, n, length, size, requires_grad=True) for n in (heads, heads // groups, heads // groups)
    ]
    module: Any = SimpleNamespace(num_key_value_groups=groups, training=False, is_causal=True)
    mask = additive_mask(allowed[:, None], torch.float32)
    assert mask.shape == (rows, 1, masked, length)
    computed, _ = prefix_attention(module, *tensors, mask, scaling=size**-0.5)
    exact = [one.detach().double().requires_grad_() for one in tensors]
    expected = plain(*exact, sees)
    torch.testing.assert_close(computed.double(), expected, atol=2e-6, rtol=1e-5)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((computed * weights).sum(), tensors)
    for one, other in zip(gradients, torch.autograd.grad((expected * weights).sum(), exact), strict=True):
        torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_heads_gradient_is_that_of_the_log_probability(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    states = torch.randn(7, 16, dtype=dtype, requires_grad=True)
    weight, tokens = torch.randn(50, 16).to(dtype), torch.randint(50, (7,))
    scale = torch.linspace(-2, 3, 7)
    computed = FrozenHead.apply(states, tokens, weight)
    (gradient,) = torch.autograd.grad((computed * scale).sum(), states)
    exact = states.detach().double().requires_grad_()
    expected = (exact @ weight.double().T).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    (wanted,) = torch.autograd.grad((expected * scale).sum(), exact)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 6e-2}[dtype]
    assert computed.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(computed.double(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(gradient.double(), wanted, atol=tolerance, rtol=tolerance)
    with torch.no_grad():
        torch.testing.assert_close(FrozenHead.apply(states, tokens, weight), computed)
