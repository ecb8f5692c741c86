"""The shared prefix, the kept features and the chunked logits change neither loss nor gradient; nor does the batch's layout.

For every family of models, on images of several sizes: tiles and grids differ from row to row.
"""

from __future__ import annotations

import io
import itertools
import pickle
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aligners.base import CHOSEN, IMAGE_REJECTED, REJECTED
from aligners.corrections import CorrectedTokens
from aligners.mfpo import MFPO
from aligners.training.encoding import EncodedExample, Encoder
from aligners.training.layout import BLOCK_COST, by_branch, collate, group_by_length, row_lengths
from aligners.training.policy import Policy
from aligners.training.reference import content_keys, content_print
from harness.core.config import LoraSettings, Savings
from harness.core.errors import BadInputError
from harness.core.types import ImageRef, PreferenceExample
from harness.models import prompt_inputs
from tests.tiny import tiny_parts
from tests.tiny_families import FAMILIES

BRANCHES = [CHOSEN, REJECTED, IMAGE_REJECTED]
Parts = tuple[Any, Any, list[EncodedExample], list[PreferenceExample]]
OFF = Savings(shared_prefix=False, reference_cache=False, feature_cache=False, chunked_logits=False, lean_layers=False)


def picture(seed: int, size: tuple[int, int]) -> ImageRef:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(
        stream, "PNG"
    )
    return ImageRef(data=stream.getvalue(), name=f"picture {seed}")


def examples(sizes: Sequence[tuple[int, int]] = ((72, 72),) * 3) -> list[PreferenceExample]:
    """Three examples; an example's two images are of one size."""
    said = [
        ("There is a red dog on the left.", "There is a red dog and a cat."),
        ("We see a cup.", "We see a cup in the middle. There is also a fork."),
        ("The image shows a boat and a bird.", "The image shows a boat."),
    ]
    return [
        PreferenceExample(
            str(n),
            "what is this" if n else "Describe this image.",
            {"original": picture(n, size), "rejected": picture(50 + n, size)},
            {"chosen": chosen, "rejected": rejected},
        )
        for n, ((chosen, rejected), size) in enumerate(zip(said, sizes, strict=True))
    ]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FAMILIES)
def parts(request: pytest.FixtureRequest) -> Parts:
    model, processor = FAMILIES[request.param]()
    rows = examples(((40, 24), (60, 90), (48, 48)))
    model.set_attn_implementation({"text_config": "eager"})
    encoder = Encoder(processor, BRANCHES, 512, corrections=CorrectedTokens())
    return model, processor, [encoder.encode(row) for row in rows], rows


def loss_and_gradient(parts: Parts, rows: list[EncodedExample], savings: Savings) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-example MFPO loss against a constant reference, and the gradient of its sum at one projection of every layer."""
    model, processor = parts[:2]
    policy = Policy(model, processor, "full", LoraSettings(), savings, bfloat16=False)
    policy.keep_features(image for one in rows for image in one.images.values())
    batch = policy.prepare(collate(rows, BRANCHES, processor.tokenizer.pad_token_id, savings.shared_prefix))
    logps = by_branch(policy.token_logps(batch), batch.layouts)
    reference = {
        name: type(branch)(
            branch.sums.detach() - 1, branch.tokens.detach() - 1 / branch.mask.sum(-1, keepdim=True), branch.mask, None
        )
        for name, branch in logps.items()
    }
    loss = MFPO().loss(logps, reference).per_example
    weights = [
        value
        for name, value in model.named_parameters()
        if name.endswith("self_attn.q_proj.weight") and policy.family.language in name
    ]
    gradient = torch.cat([one.flatten() for one in torch.autograd.grad(loss.sum(), weights)])
    return loss.detach(), gradient


@pytest.mark.slow
@pytest.mark.parametrize("switched_on", ["shared_prefix", "feature_cache", "chunked_logits", "lean_layers", "all"])
def test_each_saving_is_exact(parts: Parts, switched_on: str) -> None:
    plain = loss_and_gradient(parts, parts[2], OFF)
    savings = Savings() if switched_on == "all" else OFF.model_copy(update={switched_on: True})
    saved = loss_and_gradient(parts, parts[2], savings)
    torch.testing.assert_close(saved[0], plain[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(saved[1], plain[1], atol=2e-6, rtol=1e-3)
    assert plain[1].abs().max() > 1e-5  # there is a gradient to compare


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_sums_are_those_of_the_models_own_forward(parts: Parts, attention: str) -> None:
    model, processor, rows, raw = parts
    model.set_attn_implementation({"text_config": attention})
    policy = Policy(model, processor, "full", LoraSettings(), Savings(), bfloat16=False)
    batch = policy.prepare(collate(rows, BRANCHES, processor.tokenizer.pad_token_id))
    logps = by_branch(policy.token_logps(batch), batch.layouts)
    for number, row in enumerate(rows):
        for branch in BRANCHES:
            response = row.responses[branch.response]
            inputs = answered(prompt_inputs(processor, raw[number].prompt, row.images[branch.image].open()), response)
            with torch.no_grad():  # the trainer has put its own forward pass in this one's place
                logits = type(model).forward(model, **inputs).logits[0].double().log_softmax(-1)
            length = inputs["input_ids"].shape[1] - len(response)
            expected = sum(float(logits[length - 1 + k, token]) for k, token in enumerate(response))
            assert float(logps[branch.name].sums[number]) == pytest.approx(expected, abs=2e-4)


def answered(inputs: dict[str, Any], response: list[int]) -> dict[str, Any]:
    """What the processor made of image and prompt, with a response behind it: ids, mask, types of tokens; positions are the model's."""
    tails = {"input_ids": response, "attention_mask": [1] * len(response), "mm_token_type_ids": [0] * len(response)}
    return inputs | {
        name: torch.cat([inputs[name], torch.tensor([tail])], 1) for name, tail in tails.items() if name in inputs
    }


def row(name: str, prefix: int, **responses: list[int]) -> EncodedExample:
    image = picture(0, (8, 8))
    return EncodedExample(
        name,
        {"original": list(range(prefix)), "rejected": list(range(prefix))},
        {"original": image, "rejected": image},
        responses,
        {},
    )


def test_an_opening_that_two_responses_share_is_there_once() -> None:
    encoded = row("a", 5, chosen=[50, 51, 52, 9], rejected=[50, 51, 60, 61, 9])
    batch = collate([encoded], [CHOSEN, REJECTED], 0)
    (block,) = batch.blocks
    assert block.input_ids.tolist() == [[0, 1, 2, 3, 4, 50, 51, 52, 9, 60, 61, 9]]
    assert block.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 8, 9]]
    assert batch.layouts["rejected"].predictor.tolist() == [[4, 5, 6, 9, 10]]
    sees = block.allowed[0, 0]
    # Its own past, and not "52 9"; the prefix's positions but the last are not in the mask.
    assert sees[10 - 4].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 9, 10]
    assert row_lengths(encoded, [CHOSEN, REJECTED]) == [12]
    assert row_lengths(encoded, [CHOSEN, REJECTED], shared=False) == [9, 10]


def test_a_response_that_is_the_beginning_of_another_or_the_same_adds_nothing() -> None:
    one = row("a", 3, chosen=[50, 51, 9], rejected=[50, 51, 9])
    batch = collate([one], [CHOSEN, REJECTED], 0)
    assert batch.tokens == 6
    assert batch.layouts["rejected"].predictor.tolist() == batch.layouts["chosen"].predictor.tolist() == [[2, 3, 4]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=7))
def test_no_other_grouping_of_the_rows_costs_less(lengths: list[int]) -> None:
    def cost(blocks: list[list[int]]) -> int:
        return sum(len(block) * max(lengths[n] for n in block) + BLOCK_COST for block in blocks)

    groups = group_by_length(lengths)
    assert sorted(n for block in groups for n in block) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda n: lengths[n])
    cuts = itertools.product([False, True], repeat=len(lengths) - 1)
    others = []
    for cut in cuts:
        blocks = [[order[0]]]
        for number, new in zip(order[1:], cut, strict=True):
            if new:
                blocks.append([number])
            else:
                blocks[-1].append(number)
        others.append(cost(blocks))
    assert cost(groups) == min(others)


def test_rows_of_two_lengths_go_through_the_model_apart() -> None:
    many = [row(str(n), 600, chosen=[5] * 10 + [9], rejected=[6] * 200 + [9]) for n in range(3)]
    batch = collate(many, BRANCHES, 0)
    assert [tuple(block.input_ids.shape) for block in batch.blocks] == [(3, 611), (3, 812)]


def test_order_and_padding_do_not_matter(parts: Parts) -> None:
    rows = parts[2]
    together = loss_and_gradient(parts, rows, Savings())
    backwards = loss_and_gradient(parts, rows[::-1], Savings())
    torch.testing.assert_close(backwards[0].flip(0), together[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(backwards[1], together[1], atol=2e-6, rtol=1e-3)
    alone = [loss_and_gradient(parts, [row], Savings()) for row in rows]
    torch.testing.assert_close(torch.cat([one[0] for one in alone]), together[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(sum(one[1] for one in alone), together[1], atol=3e-6, rtol=1e-3)  # type: ignore[arg-type]


def test_responses_are_cut_from_the_right_and_images_never() -> None:
    _, processor = tiny_parts()
    row = examples()[1]
    whole = Encoder(processor, BRANCHES, 512, corrections=None).encode(row)
    prefix = len(whole.prefixes["original"])
    short = Encoder(processor, BRANCHES, prefix + 4, corrections=None).encode(row)
    assert short.responses["rejected"] == whole.responses["rejected"][:4]
    assert short.prefixes == whole.prefixes
    assert short.truncated == 2
    with pytest.raises(BadInputError, match="image and prompt take"):
        Encoder(processor, BRANCHES, prefix, corrections=None).encode(row)


def test_ids_take_four_bytes_and_are_shared_and_their_content_keys_stay() -> None:
    _, processor = tiny_parts()
    encoder = Encoder(processor, (CHOSEN, REJECTED, IMAGE_REJECTED), 512, corrections=None)
    texts = {"chosen": "There is a red dog.", "rejected": "There is a blue dog."}
    images = {"original": picture(1, (72, 72)), "rejected": picture(2, (72, 72))}
    first, second, behind = (
        encoder.encode(PreferenceExample(name, "what is this", images, texts, context=context))
        for name, context in (("1", ""), ("2", ""), ("3", "We see a cup."))
    )
    shared = first.prefixes["original"]
    assert shared is first.prefixes["rejected"] is second.prefixes["original"], "one question, pictures of one size"
    assert list(behind.prefixes["original"][: len(shared)]) == list(shared) and len(behind.prefixes["rejected"]) > len(
        shared
    )
    for ids in (shared, *behind.prefixes.values(), *first.responses.values()):
        assert isinstance(ids, array) and ids.itemsize == 4 and sys.getsizeof(ids) < 100 + 5 * len(ids)
    assert pickle.loads(pickle.dumps(first)).prefixes == first.prefixes
    # Cached values of a reference are found by the hash of the ids as JSON.
    for encoded in (first, behind):
        lists = replace(encoded, prefixes={name: list(ids) for name, ids in encoded.prefixes.items()},
                        responses={name: list(ids) for name, ids in encoded.responses.items()})  # fmt: skip
        assert content_print(encoded, encoder.branches) == content_print(lists, encoder.branches)
    prefix, responses = [1, 32000, 32000, 5, 300], {"chosen": [7, 800, 2], "rejected": [9, 2]}
    known = EncodedExample(
        "a",
        {"original": array("i", prefix)},
        {"original": ImageRef(data=b"picture")},
        {name: array("i", ids) for name, ids in responses.items()},
        {},
    )
    assert {name: key.hex() for (_, name), key in content_keys(known, BRANCHES[:2]).items()} == {
        "chosen": "dc419f5c83446d080560107cea2b59328cda8f5692693a45126e1901b326f7a1",
        "rejected": "d05d04cfb65ce044c1c56cc4cb540a78503a0babb88c852a887da1db377e5e5e",
    }


def test_known_spans_mark_tokens() -> None:
    _, processor = tiny_parts()
    text = "There is a red dog on the left."
    start = text.index("dog")
    row = PreferenceExample(
        "x",
        "what is this",
        {"original": picture(1, (72, 72))},
        {"chosen": text, "rejected": "We see a cup."},
        {"chosen": ((start, start + 3),), "rejected": ()},
    )
    encoded = Encoder(processor, [CHOSEN, REJECTED], 512, corrections=CorrectedTokens()).encode(row)
    marked = [
        token for token, mark in zip(encoded.responses["chosen"], encoded.corrected["chosen"], strict=True) if mark
    ]
    assert processor.tokenizer.decode(marked).strip() == "dog"
    assert not any(encoded.corrected["rejected"])
