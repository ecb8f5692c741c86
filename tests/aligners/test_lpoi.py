"""LPOI: its loss in float64, its lists of rejected images, and a training with them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from aligners.base import PrepareContext, image_list
from aligners.lpoi import LPOI, LPOISettings
from aligners.mfpo import MFPO
from aligners.rejected_images import ImagePreferenceSettings, generate
from aligners.rejected_images.boxes import RegionQuery
from aligners.rejected_images.regions import DatasetRegions
from aligners.training import run as training
from aligners.training.planning.plan import plan
from harness.core.config import TrainSettings, merged
from harness.core.errors import BadInputError
from harness.core.types import PreferenceExample, Region
from tests.aligners.rejected_images.test_mfpo_parts import example
from tests.aligners.test_losses import both, gradients, ratios, sigmoid_loss, slopes_agree
from tests.aligners.training.test_cost_only import KilledError, killed_at
from tests.aligners.training.test_resume import job, weights

DOG = (Region("dog", (10, 5, 30, 25)),)
NAMES = ("rejected_1", "rejected_2", "rejected_3", "rejected_4")


@pytest.mark.claims("lpoi.beta", "lpoi.lambda_text", "lpoi.lambda_list", "lpoi.lambda_margin")
def test_the_loss_is_the_ranking_s_likelihood_with_dpo_and_an_anchor() -> None:
    aligner = LPOI(LPOISettings(beta=0.3, lambda_text=0.7, lambda_list=1.3, lambda_margin=0.4))
    names = tuple(branch.name for branch in aligner.branches)
    assert names == ("chosen", "rejected", *(f"image_{name}" for name in NAMES))
    policy, reference = both(names)
    computed = aligner.loss(policy, reference)
    for row in range(5):
        r = {name: 0.3 * value for name, value in ratios(policy, reference, row).items()}
        ranked = [r["chosen"], *(r[name] for name in names[2:])]
        likelihood = 1.0  # the product over ranks of how likely the image is drawn first among those that are left
        for place in range(len(ranked)):
            likelihood *= math.exp(ranked[place]) / math.fsum(math.exp(other) for other in ranked[place:])
        terms = {
            "loss_text": sigmoid_loss(r["chosen"] - r["rejected"]),
            "loss_list": -math.log(likelihood),
            "loss_margin": sigmoid_loss(r["chosen"]),
        }
        for name, value in terms.items():
            assert float(computed.metrics[name][row]) == pytest.approx(value, abs=1e-6)
        expected = 0.7 * terms["loss_text"] + 1.3 * terms["loss_list"] + 0.4 * terms["loss_margin"]
        assert float(computed.per_example[row]) == pytest.approx(expected, abs=1e-6)
    slopes_agree(aligner, policy, reference)


def test_descent_makes_the_least_changed_images_likelier() -> None:
    """At the start, where all rewards are 0, the gradient of rank k of 5 is sum_{j <= k} 1 / (6 - j) - 1: it rises with the rank."""
    policy, _ = both(tuple(branch.name for branch in LPOI().branches))
    aligner = LPOI(LPOISettings(beta=1.0, lambda_text=0.0, lambda_margin=0.0))
    loss = aligner.loss(policy, policy).per_example
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(120)), atol=1e-6, rtol=1e-6)
    policy_copy = {name: replace(branch, sums=branch.sums.detach()) for name, branch in policy.items()}
    found = gradients(aligner.loss(policy, policy_copy).per_example, policy_names(policy, aligner))
    expected = [sum(1 / (5 - before) for before in range(min(rank, 4))) - (rank <= 4) for rank in range(1, 5)]
    slopes = [float(gradient[0, 0]) for gradient in found]
    assert slopes == pytest.approx([*expected, sum(1 / (5 - before) for before in range(4))])
    assert slopes == sorted(slopes) and slopes[0] < 0 < slopes[-1]


def policy_names(policy: dict[str, Any], aligner: LPOI) -> dict[str, Any]:
    """The branches of the ranking, in its order."""
    return {name: policy[name] for name in ("chosen", *(one.name for one in image_list(len(aligner.settings.levels))))}


def test_rewards_that_no_exponential_holds_have_a_loss() -> None:
    """The public code takes the logarithm of sums of exponentials, which overflow from a reward of 709 on."""
    policy, reference = both(tuple(branch.name for branch in LPOI().branches))
    far = {name: replace(one, sums=one.sums + 1e4 * number) for number, (name, one) in enumerate(policy.items())}
    loss = LPOI().loss(far, reference).per_example
    assert bool(torch.isfinite(loss).all())


def test_defaults_are_those_of_the_public_code() -> None:
    """docs/methods.md lists the sources."""
    settings = LPOISettings()
    assert (settings.beta, settings.lambda_text, settings.lambda_list, settings.lambda_margin) == (0.1, 1, 1, 1)
    assert settings.levels == (0.25, 0.5, 0.75, 1.0) and settings.images.corruption == "cover"
    train = TrainSettings.model_validate(merged({"train": dict(LPOI.train_defaults)})["train"])
    assert (train.learning_rate, train.epochs, train.batch_size, train.warmup_ratio) == (5e-6, 3, 64, 0)
    assert (train.lora.rank, train.lora.alpha, train.tuning, train.schedule) == (8, 8, "lora", "linear")


@pytest.mark.parametrize("levels", [[], [0.0, 1.0], [0.5, 0.5], [0.5, 0.25], [0.5, 1.5], [math.nan, 1.0]])
def test_levels_that_do_not_rise_are_refused(levels: list[float]) -> None:
    with pytest.raises(ValidationError, match="the levels must rise from above 0 to at most 1"):
        LPOISettings.model_validate({"levels": levels})


def test_a_list_is_not_so_long_that_the_canary_never_ends() -> None:
    assert len(LPOISettings(levels=tuple(n / 8 for n in range(1, 9))).levels) == 8
    with pytest.raises(ValidationError, match="at most 8 levels can be compared, not 9"):
        LPOISettings(levels=tuple(n / 9 for n in range(1, 10)))


@pytest.mark.claims("lpoi.levels", "lpoi.images")
def test_ever_more_of_the_key_object_is_covered(tmp_path: Path) -> None:
    method = LPOI(LPOISettings.model_validate({"levels": [0.1, 0.5, 1.0]}))
    assert [branch.image for branch in method.branches] == ["original", "original", *NAMES[:3]]
    context = PrepareContext(tmp_path / "cache", 0, output=tmp_path)
    [made] = method.prepare([example("a", "A red dog.", DOG)], context)
    assert {*made.images} == {"original", *NAMES[:3]}
    original = np.asarray(made.images["original"].open())
    covered = [(np.asarray(made.images[name].open()) != original).any(-1) for name in NAMES[:3]]
    box = np.zeros((40, 60), bool)
    box[5:25, 10:30] = True
    assert [int(one.sum()) for one in covered] == [40, 200, 400] and np.array_equal(covered[-1], box)
    for weaker, stronger in pairwise(covered):
        assert not (weaker & ~stronger).any(), "what is covered stays covered"
    assert np.argwhere(covered[0])[:, 0].max() == 6, "the rows next to the upper edge are the first"
    notes = context.notes["image_preferences"]
    assert (notes["corruption"], notes["levels"], notes["regions"]) == ("cover", [0.1, 0.5, 1.0], 1)
    [sample] = [json.loads(line) for line in (tmp_path / notes["samples"]).read_text().splitlines()]
    assert (tmp_path / sample["rejected"]).read_bytes() == made.images["rejected_3"].read()


def test_a_list_is_made_once_for_its_levels_and_images_are_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    located = DatasetRegions.locate

    def counted(self: DatasetRegions, queries: list[RegionQuery]) -> Any:
        asked.append(len(queries))
        return located(self, queries)

    monkeypatch.setattr(DatasetRegions, "locate", counted)
    rows = [example(name, "A red dog.", DOG) for name in "ab"]
    rows[1] = replace(rows[1], images={**rows[1].images, "rejected": rows[0].images["original"]})

    def prints(**settings: Any) -> list[list[str]]:
        method = LPOI(LPOISettings.model_validate(settings))
        made = method.prepare(rows, PrepareContext(tmp_path, 0))
        return [[image.fingerprint() for name, image in one.images.items() if name in NAMES] for one in made]

    first = prints()
    assert [len(one) for one in first] == [4, 4], "a single rejected image is no list"
    assert prints() == first and asked == [2], "the second time, the set was in the cache"
    other = prints(levels=[0.25, 1.0])
    assert asked == [2, 2] and [one[1] for one in other] == [one[3] for one in first]
    assert len(list((tmp_path / "image_preferences").iterdir())) == 2


@pytest.mark.parametrize("corruption", ["noise", "blur", "black", "shuffle", "random-regions", "whole-noise"])
def test_every_corruption_has_levels(corruption: str, tmp_path: Path) -> None:
    settings = ImagePreferenceSettings(corruption=corruption)
    row = example("a", "A red dog.", DOG)
    [made], _ = generate([row], settings, PrepareContext(tmp_path, 0), (0.1, 0.4, 1.0))
    [single], _ = generate([row], settings, PrepareContext(tmp_path, 0))
    original = np.asarray(row.images["original"].open(), np.float64)
    pixels = [np.asarray(made.images[name].open(), np.float64) for name in NAMES[:3]]
    changes = [np.abs(one - original).mean() for one in pixels]
    assert changes == sorted(changes) and changes[0] > 0
    assert np.array_equal(pixels[-1], np.asarray(single.images["rejected"].open())), "level 1 is the usual strength"


def test_levels_that_are_the_same_diffusion_step_are_refused(tmp_path: Path) -> None:
    settings = ImagePreferenceSettings(corruption="noise", step=3)
    with pytest.raises(BadInputError, match=r"the levels 0\.5 and 0\.6 of .* are the same diffusion step"):
        generate([example("a", "A dog.", DOG)], settings, PrepareContext(tmp_path, 0), (0.5, 0.6, 1.0))


def listed(length: int) -> PreferenceExample:
    """An example whose data have a list of rejected images."""
    row = example("a", "A red dog.", DOG)
    images = {name: example("x" * (2 + n), "", ()).images["original"] for n, name in enumerate(NAMES[:length])}
    return replace(row, images={**row.images, **images})


def test_a_list_in_the_data_is_kept_and_has_one_image_per_level(tmp_path: Path) -> None:
    context = PrepareContext(tmp_path, 0)
    assert LPOI().prepare([listed(4)], context) == [listed(4)] and context.notes["image_preferences"]["given"] == 1
    with pytest.raises(BadInputError, match="a list of 2 rejected images, and 4 are compared") as caught:
        LPOI().prepare([listed(2)], context)
    assert caught.value.remedy == "give as many levels: --set method.levels=[0.5, 1.0]"


def three_levels() -> LPOI:
    """LPOI with three rejected images."""
    return LPOI(LPOISettings.model_validate({"beta": 0.5, "levels": [0.25, 0.5, 1.0]}))


@pytest.mark.slow
def test_a_plan_counts_a_row_per_image(base: Path, pairs: Path, tmp_path: Path) -> None:
    request = job(base, pairs, tmp_path / "run")
    planned = plan(three_levels(), request)
    assert not (tmp_path / "cache" / "image_preferences").exists()
    assert "72 rejected images were not made" in planned["estimated"][0]
    done = training.train(three_levels(), request)
    log = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    assert [one["steps"] for one in planned["stages"]] == [len(log)] == [3] and done.summary.stages[0].steps == 3
    single = plan(MFPO(), job(base, pairs, tmp_path / "other"))
    ratio = planned["tokens"]["epoch"] / single["tokens"]["epoch"]
    assert 1.6 < ratio < 2, "rows: the original with two answers and three images, against the original and one image"
    assert planned["disk"]["rejected_images"] == 3 * single["disk"]["rejected_images"]


@pytest.mark.slow
def test_a_killed_run_is_gone_on_with_and_micro_batches_and_rows_do_not_matter(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    plain = {"lora": {"dropout": 0.0}}
    training.train(three_levels(), job(base, pairs, tmp_path / "whole", **plain))
    with pytest.raises(KilledError):
        training.train(killed_at(Three, 3), job(base, pairs, tmp_path / "killed", **plain))
    training.train(three_levels(), job(base, pairs, tmp_path / "killed", resume=True, **plain))
    apart = {**plain, "micro_batch_size": 3, "savings": {"shared_prefix": False}}
    training.train(three_levels(), job(base, pairs, tmp_path / "apart", **apart))
    expected = weights(tmp_path / "whole")
    assert max(float(value.abs().max()) for name, value in expected.items() if "lora_B" in name) > 1e-3, "no training"
    for other, bounds in (("killed", {"rtol": 1e-5, "atol": 1e-7}), ("apart", {"rtol": 1e-3, "atol": 1e-5})):
        found = weights(tmp_path / other)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, **bounds)


class Three(LPOI):
    """LPOI with three rejected images."""

    def __init__(self) -> None:
        super().__init__(three_levels().settings)
