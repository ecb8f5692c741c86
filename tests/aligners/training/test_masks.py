"""Windows, states and whole images: the trainer computes what the model's own forward pass does, with every saving and its gradient.

The plain pass takes each image, prompt and response as a row of its own, and its prompt's ids from the processor's own chat template.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from aligners.base import CHOSEN, IMAGE_REJECTED, REJECTED
from aligners.training.encoding import EncodedExample, Encoder
from aligners.training.layout import by_branch, collate
from aligners.training.policy import Policy
from harness.core.config import LoraSettings, Savings
from harness.core.types import ImageRef, PreferenceExample
from tests.aligners.training.test_branches import OFF, examples
from tests.tiny_modern import MODERN
from tests.tiny_variants import VARIANTS, WINDOW

BRANCHES = [CHOSEN, REJECTED, IMAGE_REJECTED]
SIZES = ((40, 24), (60, 90), (48, 48))
SAVINGS = {
    "all": Savings(),
    "none": OFF,
    "shared prefix": OFF.model_copy(update={"shared_prefix": True}),
    "lean layers": OFF.model_copy(update={"lean_layers": True}),
    "feature cache": OFF.model_copy(update={"feature_cache": True}),
}


def own_inputs(processor: Any, prompt: str, picture: Image.Image) -> dict[str, Any]:
    """Ids and pixels by the processor's own chat template."""
    content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
    turns = [{"role": "user", "content": content}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return dict(processor.apply_chat_template(turns, add_generation_prompt=True, **options))


def plain_logps(model: Any, processor: Any, prompt: str, image: ImageRef, response: list[int]) -> torch.Tensor:
    """Log-probabilities of a response's tokens in a row of its own, [tokens]."""
    inputs = own_inputs(processor, prompt, image.open())
    tails = {"input_ids": response, "attention_mask": [1] * len(response)}
    for name in ("token_type_ids", "mm_token_type_ids"):
        tails[name] = [0] * len(response)
    unused = getattr(processor, "unused_input_names", ())
    whole = {
        name: torch.cat([value, torch.tensor([tails[name]])], 1) if name in tails else value
        for name, value in inputs.items()
        if name not in unused
    }
    # The trainer has put its own forward pass in the model's place.
    logits = type(model).forward(model, **whole).logits[0, -len(response) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]


class Trained:
    """A model as the trainer has it, with adapters that are not 0, or with all weights."""

    def __init__(self, variant: str, tuning: str, savings: Savings) -> None:
        self.model, self.processor = {**VARIANTS, **MODERN}[variant]()
        self.policy = Policy(self.model, self.processor, tuning, LoraSettings(rank=4, alpha=8), savings, bfloat16=False)
        generator = torch.Generator().manual_seed(1)
        for name, value in self.policy.model.named_parameters():
            if ".lora_" in name:
                value.data = torch.randn(value.shape, generator=generator) / 8
        self.raw: list[PreferenceExample] = examples(SIZES)
        encoder = Encoder(self.processor, BRANCHES, 512, corrections=None)
        self.rows: list[EncodedExample] = [encoder.encode(one) for one in self.raw]
        self.policy.keep_features(image for one in self.rows for image in one.images.values())

    def computed(self) -> list[torch.Tensor]:
        """Log-probabilities of every branch of every example, by the trainer."""
        shared = self.policy.savings.shared_prefix
        batch = collate(self.rows, BRANCHES, self.processor.tokenizer.pad_token_id, shared)
        batch = self.policy.prepare(batch)
        logps = by_branch(self.policy.token_logps(batch), batch.layouts)
        return [
            logps[branch.name].tokens[number][logps[branch.name].mask[number]]
            for number in range(len(self.rows))
            for branch in BRANCHES
        ]

    def expected(self) -> list[torch.Tensor]:
        """The same by the model's own forward pass."""
        self.model.set_attn_implementation({"text_config": "sdpa"})
        return [
            plain_logps(
                self.model, self.processor, raw.prompt, row.images[values.image], row.responses[values.response]
            )
            for raw, row in zip(self.raw, self.rows, strict=True)
            for values in BRANCHES
        ]

    def gradients(self, logps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Of a sum in which every token counts otherwise."""
        tokens = torch.cat(logps)
        trained = {name: one for name, one in self.policy.model.named_parameters() if one.requires_grad}
        total = (tokens * torch.linspace(-1, 1, len(tokens))).sum()
        found = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
        return {name: one for name, one in zip(trained, found, strict=True) if one is not None}


CASES = [(variant, savings, tuning) for variant in VARIANTS for savings in SAVINGS for tuning in ("lora", "full")]
CASES += [(variant, "all", tuning) for variant in MODERN for tuning in ("lora", "full")]
REST = [
    (variant, savings, tuning)
    for variant in MODERN
    for savings in SAVINGS
    if savings != "all"
    for tuning in ("lora", "full")
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "savings", "tuning"), [*CASES, *(pytest.param(*one, marks=pytest.mark.exhaustive) for one in REST)]
)
def test_values_and_gradients_are_those_of_the_models_own_forward_pass(variant: str, savings: str, tuning: str) -> None:
    trained = Trained(variant, tuning, SAVINGS[savings])
    assert min(len(row.prefixes["original"]) for row in trained.rows) > 1
    assert max(len(row.prefixes["original"]) + len(row.responses["chosen"]) for row in trained.rows) > WINDOW
    computed = trained.computed()
    gradients = trained.gradients(computed)
    expected = trained.expected()
    wanted = trained.gradients(expected)
    difference = max(float((a - b).detach().abs().max()) for a, b in zip(computed, expected, strict=True))
    assert difference < 1e-5, difference
    assert gradients.keys() == wanted.keys() and gradients
    for name, value in wanted.items():
        bound = 2e-5 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(gradients[name], value, atol=bound, rtol=1e-3, msg=lambda said, name=name: name)
    assert sum(float(value.abs().sum()) > 0 for value in wanted.values()) > len(wanted) / 2
