"""OPA-DPO: its two losses in float64, the answers and weights that it takes from the data, and both phases of a training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aligners.base import BranchLogps, PrepareContext
from aligners.opa import OPADPO, OPADPOSettings
from aligners.preferences import read_preferences
from aligners.training import run as training
from harness.core.config import TrainSettings, merged
from harness.core.errors import BadInputError
from tests.aligners.preferences.test_preference_data import GOOD, jsonl, png
from tests.aligners.rejected_images.test_mfpo_parts import example
from tests.aligners.test_losses import both, gradients, sigmoid_loss
from tests.aligners.training.test_resume import job, weights
from tests.tiny import with_standard

NAMES = ("chosen", "rejected", "standard", "image_chosen", "image_standard")


def weighted(names: tuple[str, ...] = NAMES) -> tuple[dict[str, BranchLogps], dict[str, BranchLogps]]:
    """Policy and reference, with a weight for every token of the policy's branches."""
    policy, reference = both(names)
    rng = torch.Generator().manual_seed(5)
    for name, one in policy.items():
        factors = torch.randint(1, 4, one.mask.shape, generator=rng) * one.mask
        policy[name] = replace(one, weights=factors.double())
    return policy, reference


def total(policy: BranchLogps, reference: BranchLogps, row: int, *, by_weight: bool = False) -> float:
    """A response's log-ratio, token by token, in Python."""
    assert policy.weights is not None
    return sum(
        (float(policy.weights[row, k]) if by_weight else 1.0) * float(policy.tokens[row, k] - reference.tokens[row, k])
        for k in range(policy.mask.shape[1])
        if policy.mask[row, k]
    )


@pytest.mark.claims("opa-dpo.beta", "opa-dpo.lambda_standard", "opa-dpo.lambda_revised", "opa-dpo.lambda_image")
@pytest.mark.claims("opa-dpo.lambda_margin", "opa-dpo.anchor")
@pytest.mark.parametrize("anchor", ["preferred", "public-code"])
def test_the_loss_prefers_both_answers_to_the_own_one_and_the_original_image(anchor: Any) -> None:
    settings = OPADPOSettings(
        beta=0.3, lambda_standard=0.7, lambda_revised=1.2, lambda_image=0.4, lambda_margin=0.6, anchor=anchor
    )
    policy, reference = weighted()
    computed = OPADPO(settings).loss(policy, reference)
    sign = -1 if anchor == "public-code" else 1
    for row in range(5):
        r = {name: 0.3 * total(policy[name], reference[name], row) for name in NAMES}
        w = {name: 0.3 * total(policy[name], reference[name], row, by_weight=True) for name in NAMES}
        of_standard = sigmoid_loss(r["standard"] - r["rejected"]) + 0.4 * sigmoid_loss(
            r["standard"] - r["image_standard"]
        )
        of_revised = sigmoid_loss(w["chosen"] - w["rejected"]) + 0.4 * sigmoid_loss(w["chosen"] - w["image_chosen"])
        anchors = sigmoid_loss(r["standard"]) + sigmoid_loss(sign * r["chosen"])
        expected = 0.7 * of_standard + 1.2 * of_revised + 0.6 * anchors
        assert float(computed.per_example[row]) == pytest.approx(expected, abs=1e-6)
        assert float(computed.metrics["loss_margin"][row]) == pytest.approx(anchors, abs=1e-6)


def test_descent_makes_both_answers_likelier_and_the_own_one_and_those_without_pixels_less_likely() -> None:
    policy, reference = weighted()
    slopes = dict(zip(NAMES, gradients(OPADPO().loss(policy, reference).per_example, policy), strict=True))
    for name in ("chosen", "standard"):
        assert bool((slopes[name][policy[name].mask] < 0).all()), name
    for name in ("rejected", "image_chosen", "image_standard"):
        assert bool((slopes[name][policy[name].mask] > 0).all()), name


@pytest.mark.claims("opa-dpo.phase")
def test_the_first_phase_is_the_likelihood_of_both_answers_without_a_reference() -> None:
    aligner = OPADPO(OPADPOSettings(phase="opa"))
    assert [branch.name for branch in aligner.branches] == ["chosen", "standard"] and not aligner.uses_reference
    policy, _ = weighted(("chosen", "standard"))
    loss = aligner.loss(policy, {}).per_example
    for row in range(5):
        means = [float(one.tokens[row].sum()) / int(one.mask[row].sum()) for one in policy.values()]
        assert float(loss[row]) == pytest.approx(-sum(means) / 2, abs=1e-6)


def test_defaults_are_those_of_the_public_script() -> None:
    """docs/methods.md lists the sources, and which defaults are ours."""
    s = OPADPOSettings()
    assert (s.beta, s.lambda_standard, s.lambda_revised, s.lambda_image, s.lambda_margin) == (0.1, 1, 1, 0.2, 2)
    assert (s.images.corruption, s.images.amount, s.anchor, s.phase) == ("pixels", 0.3, "preferred", "dpo")
    train = TrainSettings.model_validate(merged({"train": dict(OPADPO.train_defaults)})["train"])
    assert (train.learning_rate, train.epochs, train.batch_size) == (1e-6, 4, 32)
    assert (train.lora.rank, train.lora.alpha, train.warmup_ratio) == (256, 512, 0.01)


@pytest.mark.claims("opa-dpo.images")
def test_a_share_of_the_pixels_is_hidden(tmp_path: Path) -> None:
    row = example("a", "A red dog.", ())
    row = replace(row, responses={**row.responses, "standard": "A dog."})
    method = OPADPO(OPADPOSettings.model_validate({"images": {"corruption": "pixels", "strength": 0.5}}))
    context = PrepareContext(tmp_path, 0)
    [made] = method.prepare([row], context)
    before, after = (np.asarray(made.images[name].open()) for name in ("original", "rejected"))
    assert 0.49 < (before != after).any(-1).mean() <= 0.5
    assert {*map(tuple, after[(before != after).any(-1)])} == {
        tuple(np.rint(before.reshape(-1, 3).mean(0)).astype(int))
    }
    assert context.notes["with_token_weights"] == 0


def test_the_standard_answer_is_read_and_needed(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    row = GOOD | {"image": "1.png"}
    (read,) = read_preferences(jsonl(tmp_path / "d.jsonl", [row | {"standard_response": "A dog."}])).examples
    assert read.responses["standard"] == "A dog."
    (without,) = read_preferences(jsonl(tmp_path / "e.jsonl", [row])).examples
    with pytest.raises(BadInputError, match="no standard response"):
        OPADPO().prepare([without], PrepareContext(tmp_path, 0))
    with pytest.raises(BadInputError, match="continue a context"):
        OPADPO().prepare([replace(read, context="It is")], PrepareContext(tmp_path, 0))
    for value, reason in ((3, "not text"), ("a <image> b", "stray '<image>'")):
        with pytest.raises(BadInputError, match=reason):
            read_preferences(jsonl(tmp_path / "f.jsonl", [row | {"standard_response": value}]))


@pytest.fixture(scope="module")
def triples(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pairs, each with a standard answer and weights of the characters of its chosen one."""
    return with_standard(pairs, tmp_path_factory.mktemp("triples") / "triples.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["opa", "dpo"])
def test_both_phases_learn_and_micro_batches_do_not_matter(
    phase: Any, base: Path, triples: Path, tmp_path: Path
) -> None:
    """The canary computes the loss from the reference's values with the policy's weights of tokens."""
    kind = OPADPO(OPADPOSettings(phase=phase))
    plain: dict[str, Any] = {"lora": {"dropout": 0.0}, "epochs": 2}
    training.train(kind, replace(job(base, triples, tmp_path / "whole", **plain), canary=True))
    training.train(kind, job(base, triples, tmp_path / "small", **plain, micro_batch_size=3))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "whole" / "train_log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.01
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "small")[name], value, rtol=1e-3, atol=1e-5)
