"""Log-probabilities under an output layer that is not trained, with their gradient computed in the forward pass.

The gradient of log p(token | state) with respect to the state is W[token] - Σ_v p(v) W[v], and a loss only scales it. So it is computed
together with the probabilities, only [tokens, width] is stored, and neither logits nor a second pass over the vocabulary is needed.
"""

from __future__ import annotations

from typing import Any

import torch


class FrozenHead(torch.autograd.Function):
    """`FrozenHead.apply(states [n, width], tokens [n], weight [vocabulary, width])`: log-probabilities [n] float32."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the tokens; their gradients are stored."""
        logits = torch.nn.functional.linear(states, weight).float()
        logs = logits.sub_(logits.logsumexp(-1, keepdim=True))
        logps = logs.gather(-1, tokens[:, None])[:, 0]
        if ctx.needs_input_grad[0]:
            falling = logs.exp_()
            falling[torch.arange(len(tokens), device=tokens.device), tokens] -= 1
            ctx.save_for_backward(falling.to(weight.dtype) @ weight)
            ctx.dtype = states.dtype
        return logps

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        """Scale the stored gradients."""
        (falling,) = ctx.saved_tensors
        return (-gradient[:, None] * falling).to(ctx.dtype), None, None
