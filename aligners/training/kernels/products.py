"""A decoder layer's parts with fewer copies: adapted products, norms, rotary positions and gated activations, each as one autograd
function.

Computed operation by operation, an adapter's product writes its output four times, a norm three times and rotary positions five times,
and the backward pass does the same. On large rows this memory traffic takes as long as the products themselves. Each function here
writes its result once and keeps only what its gradient needs. All are equal to the separate operations except for rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Adapter(NamedTuple):
    """A low-rank addition to a product: `scale * x A^T B^T`.

    Attributes:
        down: A, [rank, in].
        up: B, [out, rank].
        scale: alpha over rank.
    """

    down: Tensor
    up: Tensor
    scale: float


def _adapted(inputs: Tensor, weight: Tensor, bias: Tensor | None, adapter: Adapter) -> tuple[Tensor, Tensor]:
    """The product and its addition [..., out], and the inputs' low-rank projection [n, rank]."""
    output = torch.nn.functional.linear(inputs, weight, bias)
    low = inputs.flatten(0, -2) @ adapter.down.to(inputs.dtype).T
    output.view(-1, output.shape[-1]).addmm_(low, adapter.up.to(inputs.dtype).T, alpha=adapter.scale)
    return output, low


def _adapted_gradients(
    gradient: Tensor, inputs: Tensor, low: Tensor, weight: Tensor, adapter: Adapter, wanted: bool = True
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of the inputs [n, in] (None if they are not wanted), of A and of B, from the gradient of the output [n, out]."""
    lower = (gradient @ adapter.up.to(gradient.dtype)).mul_(adapter.scale)
    of_down = (lower.T @ inputs).to(adapter.down.dtype)
    of_up = (gradient.T @ low).mul_(adapter.scale).to(adapter.up.dtype)
    of_inputs = (gradient @ weight).addmm_(lower, adapter.down.to(gradient.dtype)) if wanted else None
    return of_inputs, of_down, of_up


class AdaptedProduct(torch.autograd.Function):
    """`AdaptedProduct.apply(inputs [..., in], weight [out, in], bias [out] or None, *adapter)`: [..., out].

    Weight and bias are not trained. Source: Hu et al., LoRA, ICLR 2022, eq. 3.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """W x + b + scale B A x."""
        output, low = _adapted(inputs, weight, bias, Adapter(down, up, scale))
        ctx.save_for_backward(inputs, low, weight, down, up)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the inputs, A and B."""
        inputs, low, weight, down, up = ctx.saved_tensors
        of_inputs, of_down, of_up = _adapted_gradients(
            gradient.flatten(0, -2),
            inputs.flatten(0, -2),
            low,
            weight,
            Adapter(down, up, ctx.scale),
            ctx.needs_input_grad[0],
        )
        return None if of_inputs is None else of_inputs.view_as(inputs), None, None, of_down, of_up, None


class GatedProduct(torch.autograd.Function):
    """`GatedProduct.apply(gate [..., in], other [..., in], weight, bias, *adapter)`: an adapted product of `silu(gate) * other`.

    The activation is computed again in the backward pass, so only the two halves of a gated layer are stored.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        other: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        """W (silu(gate) * other) + b, plus the adapter's addition."""
        output, low = _adapted(torch.nn.functional.silu(gate).mul_(other), weight, bias, Adapter(down, up, scale))
        ctx.save_for_backward(gate, other, low, weight, down, up)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of both halves, A and B."""
        gate, other, low, weight, down, up = ctx.saved_tensors
        active = torch.nn.functional.silu(gate)
        product, of_down, of_up = _adapted_gradients(
            gradient.flatten(0, -2), (active * other).flatten(0, -2), low, weight, Adapter(down, up, ctx.scale)
        )
        assert product is not None
        product = product.view_as(gate)
        of_other = active.mul_(product)
        of_gate = product.mul_(other)
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return of_gate, of_other, None, None, of_down, of_up, None


class Gated(torch.autograd.Function):
    """`Gated.apply(gate, other)`: `silu(gate) * other`, of which only the two inputs are stored."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, other: Tensor) -> Tensor:
        """The product, in the type of the halves."""
        ctx.save_for_backward(gate, other)
        return torch.nn.functional.silu(gate).mul_(other)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Gradients of both halves."""
        gate, other = ctx.saved_tensors
        of_gate = gradient * other
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return of_gate, torch.nn.functional.silu(gate).mul_(gradient)


class Norm(torch.autograd.Function):
    """`Norm.apply(inputs [..., width], weight [width], epsilon)`: inputs over their root mean square, times the weight.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, NeurIPS 2019, eq. 4. Computed in float32 or
    wider, rounded to the inputs' type before the weight, as transformers does.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """w * x / sqrt(mean(x^2) + epsilon)."""
        wide = torch.promote_types(inputs.dtype, torch.float32)
        length = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True, dtype=wide)
        inverse = length.square_().div_(inputs.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(inputs, weight, inverse)
        output = (inputs * inverse).to(inputs.dtype)
        return output.mul_(weight) if weight.dtype == output.dtype else output * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        """With n = x / rms: (g w - n mean(n g w)) / rms for the inputs, and g n for the weight."""
        inputs, weight, inverse = ctx.saved_tensors
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (gradient * (inputs * inverse)).flatten(0, -2).sum(0).to(weight.dtype)
        of_inputs = gradient.to(inverse.dtype) * weight
        mean = (of_inputs * inputs).mean(-1, keepdim=True)
        of_inputs.addcmul_(inputs.to(of_inputs.dtype), mean.mul_(inverse).mul_(inverse), value=-1)
        return of_inputs.mul_(inverse).to(inputs.dtype), of_weight, None


class Rotary(torch.autograd.Function):
    """`Rotary.apply(values [rows, heads, length, size], cosine [rows, 1, length, size], sine)`: rotated by their positions.

    Source: Su et al., RoFormer, 2021, eq. 34, with the halves of a head as pairs, as transformers has them.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """values * cosine + (-second half, first half) * sine."""
        ctx.save_for_backward(cosine, sine)
        ctx.dtype = values.dtype
        output = values * cosine
        first, second = values.to(output.dtype).chunk(2, -1)
        sines = sine.to(output.dtype).chunk(2, -1)
        halves = output.chunk(2, -1)
        halves[0].addcmul_(second, sines[0], value=-1)
        halves[1].addcmul_(first, sines[1])
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """The gradient, rotated back."""
        cosine, sine = ctx.saved_tensors
        output = gradient * cosine
        first, second = gradient.to(output.dtype).chunk(2, -1)
        sines = sine.to(output.dtype).chunk(2, -1)
        halves = output.chunk(2, -1)
        halves[0].addcmul_(second, sines[1])
        halves[1].addcmul_(first, sines[0], value=-1)
        return output.to(ctx.dtype), None, None
