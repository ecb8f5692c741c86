"""Seeded sampling of vLLM on a CPU, of more prompts than one step can hold; answers that are continued, or end at a text."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.core.types import NO_IMAGE, ImageRef
from harness.serving.base import Request, Sampling
from harness.serving.cpu_seeds import RewindableGenerator
from harness.worlds.pocket import shipped
from tests.tiny import tiny_photograph


def draws(generator: torch.Generator, count: int) -> list[int]:
    drawn = []
    for _ in range(count):
        drawn.append(int(torch.randint(0, 2**31, (1,), generator=generator, dtype=torch.long)))
        generator.noted()  # type: ignore[attr-defined]
    return drawn


def test_a_draw_that_is_taken_back_is_drawn_again() -> None:
    generator = RewindableGenerator(7)
    first = draws(generator, 3)
    assert len(set(first)) == 3 and first == draws(RewindableGenerator(7), 3) != draws(RewindableGenerator(8), 3)
    generator.set_offset(generator.get_offset() - 4)  # as vLLM does for an unfinished prompt
    assert draws(generator, 2)[0] == first[-1]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.slow
@pytest.mark.vllm
def test_seeds_and_beginnings_of_answers(tmp_path: Path) -> None:
    from harness.serving.transformers import TransformersBackend, TransformersSettings
    from harness.serving.vllm import VllmBackend

    shipped.unpack(tmp_path / "base")
    tiny_photograph(tmp_path / "one.png", 0)
    picture = ImageRef(path=tmp_path / "one.png")
    asked = [
        Request(
            str(seed), "base", "Describe this image.", picture, Sampling(temperature=1, seed=seed, max_new_tokens=12)
        )
        for seed in range(150)  # of more than 50 tokens each: beyond the 4,096 tokens of a step
    ]
    with VllmBackend(tmp_path / "base") as backend:
        together = {done.id: done.text for done in backend.generate(asked)}
        alone = {done.id: done.text for done in backend.generate(asked[60:100])}
        greedy = Request("whole", "base", "Describe this image.", picture, Sampling(max_new_tokens=40))
        whole = next(iter(backend.generate([greedy]))).text
        begun = [
            replace(greedy, id="continued", beginning=" ".join(whole.split()[:4])),
            replace(greedy, id="ended", stop=(".",)),
            replace(greedy, id="blind", beginning="The", image=NO_IMAGE),
        ]
        served = {done.id: (done.text, done.finish_reason) for done in backend.generate(begun)}
    with TransformersBackend(tmp_path / "base", settings=TransformersSettings(dtype="float32")) as plain:
        assert served == {done.id: (done.text, done.finish_reason) for done in plain.generate(begun)}
    assert served["continued"] == (whole, "stop") and served["ended"] == (whole[: whole.index(".") + 1], "stop")
    assert served["blind"][0].startswith("The ") and served["blind"][0] != whole
    assert len(set(together.values())) > 9, "answers with seeds of their own differ"
    assert alone == {name: together[name] for name in alone}
