"""A model's plain forward pass: one row per response, ids by the processor's own template, attention and layers by transformers.

It uses no code of the trainer, so the trainer can be compared with it (`canary`).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aligners.training.kernels import layers
from harness.models import messages_of, text_options, with_answer

if TYPE_CHECKING:
    from torch import Tensor

    from aligners.base import Branch
    from aligners.training.encoding import EncodedExample
    from aligners.training.policy import Policy
    from harness.core.types import PreferenceExample, Turn


@dataclass(frozen=True)
class PlainRow:
    """Results of the plain pass for one response.

    Attributes:
        logps: log-probabilities of the response's first tokens, [tokens] float32, on the CPU: those that follow ids on which template
        and trainer agree.
        ids: ids of prompt, image and response by the template.
        agree: length of the common beginning with the trainer's row.
    """

    logps: Tensor
    ids: Sequence[int]
    agree: int


def own_inputs(processor: Any, prompt: str, answer: str, picture: Any, history: Sequence[Turn] = ()) -> dict[str, Any]:
    """The model's inputs for an answered question, by the processor's own `apply_chat_template`: [1, length] ids and the picture."""
    question = messages_of(processor, prompt, {"type": "image", "image": picture}, history)
    turns = with_answer(processor, question, answer)
    asked: str = processor.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    if processor.apply_chat_template(turns, tokenize=False).startswith(asked):
        inputs = dict(processor.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="pt"))
    else:  # the answer follows the prompt with which questions are asked
        options = text_options(processor)
        inputs = dict(processor(text=[asked + answer], images=[[picture]], return_tensors="pt", **options))
    for name in getattr(processor, "unused_input_names", ()):
        inputs.pop(name, None)
    return inputs


@contextlib.contextmanager
def as_transformers_does(policy: Policy) -> Iterator[None]:
    """Context in which the model is as transformers made it: its own attention and layers, no adapter, in evaluation mode."""
    import torch

    from aligners.training.kernels import attention

    def use_attention(implementation: str) -> None:
        policy.plain.set_attn_implementation({"text_config": implementation})

    policy.model.eval()
    layers.use(policy.layers, False)
    try:
        try:
            use_attention("sdpa")
        except ValueError:  # a language model that only supports eager attention
            use_attention("eager")
        with torch.no_grad(), policy.without_adapter():
            yield
    finally:
        use_attention(attention.NAME)
        layers.use(policy.layers, policy.savings.lean_layers)


def plain_row(
    policy: Policy, example: PreferenceExample, encoded: EncodedExample, branch: Branch, autocast: Any
) -> PlainRow:
    """Log-probabilities of a branch's response by the plain pass.

    Args:
        policy: the model, inside `as_transformers_does`.
        example: the texts.
        encoded: the trainer's ids for them.
        branch: of the example.
        autocast: the context in which the trainer runs the model.
    """
    import torch

    picture = example.images[branch.image].open()
    inputs = own_inputs(policy.processor, example.prompt, example.whole(branch.response), picture, example.history)
    ids = inputs["input_ids"][0].tolist()
    prefix = len(encoded.prefixes[branch.image])
    row = [*encoded.prefixes[branch.image], *encoded.responses[branch.response]]
    agree = next((place for place, (one, other) in enumerate(zip(row, ids, strict=False)) if one != other), None)
    if agree is None:
        agree = min(len(row), len(ids))
    count = min(agree, len(row) - 1) - (prefix - 1)
    if count < 1:
        return PlainRow(torch.empty(0), ids, agree)
    kind = type(policy.plain)
    keep = len(ids) - (prefix - 1)
    options = {"logits_to_keep": keep} if "logits_to_keep" in inspect.signature(kind.forward).parameters else {}
    given = {
        name: value.to(policy.device, policy.plain.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
    with autocast:
        # The class's forward: if all weights are trained, the policy has replaced the instance's.
        logits = kind.forward(policy.plain, **given, use_cache=False, **options).logits[0, -keep:][:count]
    targets = torch.tensor(row[prefix : prefix + count], device=logits.device)
    logps = logits.float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    return PlainRow(logps.cpu(), ids, agree)
