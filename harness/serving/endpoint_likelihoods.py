"""Likelihoods of given answers from an endpoint: it reports the likeliest first tokens of its own answer, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.remote.reply import Reply
from harness.serving.base import Completion, Request, chosen

TOP = 20
"""Number of tokens that OpenAI's and vLLM's endpoints report at most."""
PARAMETERS: dict[str, Any] = {"temperature": 0.0, "logprobs": True, "top_logprobs": TOP}
"""What a request asks with, besides one token of answer."""


def likelihoods(choices: Sequence[str], reply: Reply) -> list[float | None]:
    """The log-probability of each choice as the first token, with or without a blank before it: the likelier of both. None if the
    endpoint does not report it among its likeliest tokens.
    """
    values: list[float | None] = []
    for choice in choices:
        same = [logprob for token, logprob in reply.first_token if token.strip() == choice]
        values.append(max(same, default=None))
    return values


def compared(request: Request, reply: Reply, model: str) -> Completion:
    """The completion for a request with choices. A choice that is reported is likelier than one that is not."""
    values = likelihoods(request.choices, reply)
    if all(value is None for value in values):
        shown = ", ".join(repr(token) for token, _ in reply.first_token[:4])
        reason = (
            f"neither {' nor '.join(request.choices)} is among the {len(reply.first_token)} likeliest first tokens of the answer "
            f"({shown}, …)"
        )
        counts = reply.prompt_tokens, reply.completion_tokens
        return Completion(request.id, request.target, "", "unknown", *counts, model=model, refused=reason)
    return chosen(request, values, reply.prompt_tokens, model=model)
