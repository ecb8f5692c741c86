"""What methods add to their examples before training: rejected images of their own kind, second images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligners.base import Aligner, PrepareContext
from aligners.chip import CHiP
from aligners.mdpo import MDPO
from aligners.mfpo import MFPO
from aligners.symmpo import SymMPO, nearest_with_the_same_prompt
from harness.core.types import ImageRef, PreferenceExample, Region


def picture(grey: int, spot: int) -> ImageRef:
    """Grey, with a bright column at `spot`."""
    values = np.full((32, 32, 3), grey, np.uint8)
    values[:, spot : spot + 8] = 250
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return ImageRef(data=stream.getvalue(), name=f"{grey}-{spot}")


def example(name: str, prompt: str, image: ImageRef, chosen: str) -> PreferenceExample:
    region = (Region("dog", (0, 0, 12, 12)),)
    return PreferenceExample(name, prompt, {"original": image}, {"chosen": chosen, "rejected": "a cup"}, None, region)


def test_a_partner_is_the_nearest_picture_with_the_same_prompt() -> None:
    rows = [
        example("a", "p", picture(40, 0), "a dog"),
        example("near", "p", picture(60, 2), "a cat"),
        example("far", "p", picture(40, 20), "a bird"),
        example("same picture", "p", picture(40, 0), "a pizza"),
        example("same words", "p", picture(41, 0), "a dog"),
        example("other prompt", "q", picture(42, 0), "a boat"),
    ]
    partners = {name: one.id for name, one in nearest_with_the_same_prompt(rows).items()}
    assert partners["a"] == "near"
    assert partners["same picture"] == "same words"
    assert "other prompt" not in partners


def test_second_images_that_the_data_brings_are_kept_and_lone_prompts_left_out(tmp_path: Path) -> None:
    rows = [example(name, "p", picture(40, 6 * n), f"a {name}") for n, name in enumerate(("dog", "cat"))]
    lone = example("lone", "q", picture(90, 3), "a boat")
    brought = PreferenceExample(
        "brought",
        "r",
        {"original": picture(10, 1), "second": picture(20, 2)},
        {"chosen": "x", "rejected": "y", "second": "z"},
    )
    context = PrepareContext(tmp_path, 0)
    made = SymMPO().prepare([*rows, lone, brought], context)
    assert [one.id for one in made] == ["dog", "cat", "brought"]
    assert made[0].responses["second"] == "a cat" and made[0].images["second"] is rows[1].images["original"]
    assert made[2] is brought
    assert context.notes["second_images"] == {"given": 1, "found": 2, "left_out": 1}


@pytest.mark.parametrize(
    ("aligner", "corruption", "untouched"),
    [(MFPO(), "noise", True), (MDPO(), "crop", False), (CHiP(), "whole-noise", False)],
    ids=lambda one: getattr(one, "name", None),
)
def test_every_method_has_rejected_images_of_its_kind(
    aligner: Aligner, corruption: str, untouched: bool, tmp_path: Path
) -> None:
    row = example("a", "p", picture(40, 20), "There is a dog.")
    context = PrepareContext(tmp_path, 0)
    [made] = aligner.prepare([row], context)
    assert context.notes["image_preferences"]["corruption"] == corruption
    before, after = (np.asarray(made.images[name].open()) for name in ("original", "rejected"))
    outside = np.s_[14:, 14:]
    assert not np.array_equal(before, after)
    assert (
        before[outside].shape == after[outside].shape and np.array_equal(before[outside], after[outside])
    ) == untouched
