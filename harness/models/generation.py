"""Generation with exactly the requested parameters, without those of the model's `generation_config.json`, like vLLM's engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def with_tokens(inputs: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """The inputs of one question, [1, length], followed by further text tokens; what a family says of each token is 0 for text."""
    import torch

    shape, device = inputs["input_ids"].shape, inputs["input_ids"].device
    more = {"input_ids": torch.tensor([list(ids)]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    return dict(inputs) | {
        name: torch.cat(
            [value, more.get(name, torch.zeros(1, len(ids), dtype=value.dtype)).to(device, value.dtype)], dim=1
        )
        for name, value in inputs.items()
        if value.shape == shape
    }


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: those of the model's generation configuration and the tokenizer's end token, as for vLLM's engine.
    Empty if neither names one."""
    configured = model.generation_config.eos_token_id
    ends = list(configured) if isinstance(configured, list) else [configured]
    return [token for token in dict.fromkeys([*ends, tokenizer.eos_token_id]) if token is not None]


def only_ends(model: Any, tokenizer: Any) -> Any:
    """A generation configuration with the tokens that begin and end the model's answers, and no penalty, cut-off or beams of its own."""
    from transformers import GenerationConfig

    before = model.generation_config
    ends = end_tokens(model, tokenizer) or None
    return GenerationConfig(bos_token_id=before.bos_token_id, pad_token_id=before.pad_token_id, eos_token_id=ends)


@contextlib.contextmanager
def as_asked(model: Any, tokenizer: Any) -> Iterator[None]:
    """Context in which `model.generate` uses only its arguments. The configuration that is saved with the model is not changed."""
    before = model.generation_config
    model.generation_config = only_ends(model, tokenizer)
    try:
        yield
    finally:
        model.generation_config = before
