"""Layers with fewer copies give what transformers and PEFT give: values, gradients of adapters and of all weights, in every family."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import silu

from aligners.base import CHOSEN, IMAGE_REJECTED, REJECTED
from aligners.training.encoding import Encoder
from aligners.training.kernels import layers, products
from aligners.training.layout import Batch, collate
from aligners.training.policy import Policy
from harness.core.config import LoraSettings, Savings
from tests.aligners.training.test_branches import examples
from tests.tiny_families import FAMILIES

BRANCHES = [CHOSEN, REJECTED, IMAGE_REJECTED]
LORA = LoraSettings(rank=4, alpha=12)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    made = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return made.requires_grad_()


def written_out_norm(inputs: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return weight * inputs / (inputs.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()


def written_out_rotary(values: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = values.chunk(2, -1)
    return values * cosine + torch.cat([-second, first], -1) * sine


def written_out_product(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float
) -> torch.Tensor:
    return x @ (w + scale * up @ down).T + b


def written_out_gated(gate: torch.Tensor, other: torch.Tensor, *rest: Any) -> torch.Tensor:
    return written_out_product(silu(gate) * other, *rest)


WEIGHTS = (numbers(5, 6).detach(), numbers(5).detach(), numbers(3, 6, seed=1), numbers(5, 3, seed=2), 0.7)
FUNCTIONS: dict[str, tuple[Any, Callable[..., torch.Tensor], tuple[Any, ...]]] = {
    "product": (products.AdaptedProduct, written_out_product, (numbers(2, 4, 6), *WEIGHTS)),
    "gated product": (products.GatedProduct, written_out_gated, (numbers(2, 4, 6), numbers(2, 4, 6, seed=3), *WEIGHTS)),
    "gated": (products.Gated, lambda gate, other: silu(gate) * other, (numbers(2, 4, 6), numbers(2, 4, 6, seed=3))),
    "norm": (products.Norm, written_out_norm, (numbers(2, 4, 6), numbers(6, seed=1), 1e-2)),
    "rotary": (
        products.Rotary,
        written_out_rotary,
        (numbers(2, 3, 4, 6), numbers(2, 1, 4, 6, seed=1).detach(), numbers(2, 1, 4, 6, seed=2).detach()),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_is_its_written_out_form_with_its_gradient(name: str) -> None:
    function, written_out, arguments = FUNCTIONS[name]
    torch.testing.assert_close(function.apply(*arguments), written_out(*arguments), atol=1e-12, rtol=1e-12)
    assert torch.autograd.gradcheck(function.apply, arguments)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_keeps_the_type_and_is_near_in_bfloat16(name: str) -> None:
    function, written_out, arguments = FUNCTIONS[name]
    low = [
        argument.detach().bfloat16().requires_grad_(argument.requires_grad)
        if isinstance(argument, torch.Tensor)
        else argument
        for argument in arguments
    ]
    computed, wanted = function.apply(*low), written_out(*arguments)
    assert computed.dtype == torch.bfloat16
    torch.testing.assert_close(computed.double(), wanted, atol=0.1, rtol=0.05)
    computed.sum().backward()
    wanted = torch.autograd.grad(
        wanted.sum(), [one for one in arguments if isinstance(one, torch.Tensor) and one.requires_grad]
    )
    trained = [one for one in low if isinstance(one, torch.Tensor) and one.requires_grad]
    for one, gradient in zip(trained, wanted, strict=True):
        assert one.grad is not None and one.grad.dtype == torch.bfloat16
        torch.testing.assert_close(one.grad.double(), gradient, atol=0.2, rtol=0.1)


class Compared:
    """One model with random adapters or all weights trained, lean and as transformers and PEFT compute it."""

    def __init__(self, family: str, tuning: str, dtype: torch.dtype = torch.float32, **lora: Any) -> None:
        model, processor = FAMILIES[family]()
        model = model.to(dtype)
        self.policies: dict[bool, Policy] = {}
        for lean in (True, False):
            savings = Savings(feature_cache=False, lean_layers=lean)
            settings = LORA.model_copy(update=lora)
            low = dtype == torch.bfloat16
            policy = Policy(copy.deepcopy(model), processor, tuning, settings, savings, bfloat16=low)
            generator = torch.Generator().manual_seed(1)
            for name, value in policy.model.named_parameters():
                if ".lora_" in name:  # B starts at zero, and then A has no gradient
                    value.data = torch.randn(value.shape, generator=generator) / 8
            self.policies[lean] = policy
        encoder = Encoder(processor, BRANCHES, 512, corrections=None)
        self.rows = [encoder.encode(one) for one in examples(((40, 24), (60, 90), (48, 48)))]
        self.pad = processor.tokenizer.pad_token_id

    def batch(self, lean: bool) -> Batch:
        return self.policies[lean].prepare(collate(self.rows, BRANCHES, self.pad))

    def computed(self, lean: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Log-probabilities, and the gradients of everything that is trained."""
        policy = self.policies[lean]
        low = policy.bfloat16
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            logps = policy.token_logps(self.batch(lean))
        (logps * torch.linspace(-1, 1, len(logps))).sum().backward()
        trained = {name: value for name, value in policy.model.named_parameters() if value.requires_grad}
        return logps.detach(), {name: value.grad for name, value in trained.items() if value.grad is not None}

    def agree(self, atol: float, rtol: float) -> None:
        assert self.policies[True].lean == "on" and self.policies[False].lean == "off"
        (lean, lean_gradients), (plain, plain_gradients) = self.computed(True), self.computed(False)
        torch.testing.assert_close(lean, plain, atol=atol, rtol=rtol)
        assert lean_gradients.keys() == plain_gradients.keys() and lean_gradients
        for name, wanted in plain_gradients.items():
            bound = atol * max(1.0, float(wanted.abs().max()))
            torch.testing.assert_close(
                lean_gradients[name], wanted, atol=bound, rtol=rtol, msg=lambda said, name=name: f"{name}: {said}"
            )
        assert sum(float(one.abs().sum()) > 0 for one in plain_gradients.values()) > len(plain_gradients) / 2


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_layers_are_what_transformers_computes(family: str, tuning: str) -> None:
    Compared(family, tuning).agree(2e-5, 1e-3)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_checkpointing_recomputes_the_same(tuning: str) -> None:
    compared = Compared("llava-v1.6", tuning)
    plain = compared.policies[True].plain
    plain.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    plain.disable_input_require_grads()
    compared.policies[True].model.train()
    compared.agree(2e-5, 1e-3)


def test_bfloat16_follows_float32_as_closely_as_transformers_does() -> None:
    exact, _ = Compared("llava-v1.6", "lora").computed(False)
    rounded = Compared("llava-v1.6", "lora", torch.bfloat16)
    lean, plain = ((rounded.computed(one)[0] - exact).abs().mean() for one in (True, False))
    assert 0 < lean < 1.5 * plain


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the adapted products that are called from now on."""
    seen: list[str] = []
    for one in (products.AdaptedProduct, products.GatedProduct):
        own = one.apply
        monkeypatch.setattr(one, "apply", lambda *given, own=own, name=one.__name__: seen.append(name) or own(*given))
    return seen


def test_an_adapter_with_dropout_or_switched_off_is_left_to_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, seen = Compared("llava-1.5", "lora", dropout=0.5), calls(monkeypatch)
    policy = compared.policies[True]
    policy.model.train()
    policy.token_logps(compared.batch(True))
    assert not seen
    policy.model.eval()  # dropout does nothing here
    adapted = policy.token_logps(compared.batch(True))
    assert seen
    seen.clear()
    with policy.without_adapter():
        assert not torch.allclose(policy.token_logps(compared.batch(True)), adapted)
    assert not seen


def test_the_last_layer_is_computed_for_the_responses_only(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = Compared("llava-1.5", "lora")
    policy = compared.policies[True]
    tokens: dict[str, int] = {}
    own = layers._product

    def counted(module: Any, inputs: torch.Tensor) -> torch.Tensor:
        tokens[names[id(module)]] = tokens.get(names[id(module)], 0) + inputs[..., 0].numel()
        return own(module, inputs)

    monkeypatch.setattr(layers, "_product", counted)
    names = {id(module): name for name, module in policy.layers.named_modules()}
    batch = compared.batch(True)
    policy.token_logps(batch)
    last = len(policy.layers) - 1
    read = sum(block.allowed.shape[0] * block.allowed.shape[2] for block in batch.blocks)
    assert read < batch.tokens / 2
    assert {
        tokens[f"{last}.{name}"] for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj")
    } == {read}
    assert {tokens[f"{last}.self_attn.{name}"] for name in ("k_proj", "v_proj")} == {batch.tokens}
    assert tokens["0.self_attn.q_proj"] == batch.tokens


@pytest.mark.parametrize("part", ["self_attn", "self_attn.q_proj", "self_attn.q_proj.base_layer", "input_layernorm"])
def test_a_part_with_a_hook_is_called(part: str) -> None:
    """FSDP gathers the weights of a part in such a hook, where a user has it wrap parts."""
    compared, called = Compared("llava-1.5", "lora"), []
    wanted = compared.policies[True].token_logps(compared.batch(True))
    module = compared.policies[True].layers[0].get_submodule(part)
    module.register_forward_pre_hook(lambda *_: called.append(part))
    found = compared.policies[True].token_logps(compared.batch(True))
    assert set(called) == {part}
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-3)


def test_layers_that_are_not_known_keep_their_own_forward() -> None:
    class Other(torch.nn.Module):
        pass

    other = Other()
    assert layers.use([other], True) == "not available for Other" and "forward" not in other.__dict__


def test_another_activation_is_left_alone() -> None:
    policy = Compared("llava-1.5", "lora").policies[True]
    policy.layers[0].mlp.act_fn = torch.nn.GELU()
    assert layers.use(policy.layers, True) == "not available for gates with GELU"
    assert "forward" not in policy.layers[0].__dict__
