"""Each setting of `train` changes what it is there for, and no other thing is taken for it: small trainings with and without."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aligners.dpo import DPO
from aligners.mfpo import MFPO
from aligners.training import run as training
from aligners.training.job import AlignJob
from harness.alignment.align import AlignRequest, run_align
from harness.core.config import TrainSettings, merged
from harness.core.errors import BadInputError
from tests.aligners.training.test_plan import job as plan_job
from tests.aligners.training.test_plan import started
from tests.tiny import tiny_llava, tiny_pairs

SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 4,
    "micro_batch_size": 4,
    "max_length": 256,
    "warmup_ratio": 0,
    "schedule": "constant",
    "lora": {"rank": 2, "alpha": 4},
}
"""Two steps on eight pairs, each with the whole rate."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pairs(tmp_path_factory.mktemp("pairs"), 8)


@dataclass
class Trained:
    """What a training leaves."""

    folder: Path
    summary: dict[str, Any]

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "train_log.jsonl").read_text().splitlines()]

    @property
    def rates(self) -> list[float]:
        return [row["learning_rate"] for row in self.log]

    @property
    def adapter(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "checkpoint" / "adapter_config.json").read_text())
        return found

    def weights(self, part: str, folder: str = "checkpoint") -> torch.Tensor:
        """All numbers of `lora_A` or `lora_B`, one behind the other."""
        stored = load_file(self.folder / folder / "adapter_model.safetensors")
        return torch.cat([value.flatten() for name, value in sorted(stored.items()) if part in name])


@pytest.fixture(scope="module")
def plain(base: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(base, pairs, tmp_path_factory.mktemp("plain"))


def trained(base: Path, pairs: Path, output: Path, aligner: Any = None, **settings: Any) -> Trained:
    train = TrainSettings.model_validate(merged(SETTINGS, settings))
    job = AlignJob(str(base), str(pairs), output, train, output / "cache", canary=False)
    return Trained(output, training.train(aligner or DPO(), job).summary)


@pytest.mark.slow
@pytest.mark.claims("train.learning_rate")
def test_learning_rate(plain: Trained, base: Path, pairs: Path, tmp_path: Path) -> None:
    """Adam's steps are as long as the rate: a weight that begins at 0 ends about as far as the sum of them."""
    faster = trained(base, pairs, tmp_path, learning_rate=3e-3)
    assert plain.rates == [1e-3] * 2 and faster.rates == [3e-3] * 2
    moved = [one.weights("lora_B").abs().max().item() for one in (plain, faster)]
    assert moved == [pytest.approx(2e-3, rel=0.05), pytest.approx(6e-3, rel=0.05)]


@pytest.mark.claims("train.epochs", "train.batch_size")
@pytest.mark.parametrize(("settings", "steps"), [({"epochs": 2.5}, 5), ({"batch_size": 8, "epochs": 1.0}, 1)])
def test_the_number_of_steps(
    settings: dict[str, Any], steps: int, plain: Trained, base: Path, pairs: Path, tmp_path: Path
) -> None:
    assert len(plain.log) == 2
    assert len(trained(base, pairs, tmp_path, **settings).log) == steps


@pytest.mark.slow
@pytest.mark.claims("train.schedule", "train.warmup_ratio")
@pytest.mark.parametrize(
    ("schedule", "shape"),
    [
        ("constant", lambda left: 1.0),
        ("linear", lambda left: left),
        ("cosine", lambda left: 0.5 * (1 - math.cos(math.pi * left))),
    ],
)
def test_rates_rise_for_the_warm_up_and_follow_the_schedule(
    schedule: str, shape: Any, base: Path, pairs: Path, tmp_path: Path
) -> None:
    """Ten steps, four of them to warm up: the log has the rate with which each was made, so the first one's is 0."""
    found = trained(base, pairs, tmp_path, epochs=5, schedule=schedule, warmup_ratio=0.4).rates
    expected = [1e-3 * (step / 4 if step < 4 else shape(1 - (step - 4) / 6)) for step in range(10)]
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.claims("train.weight_decay")
def test_weight_decay(plain: Trained, base: Path, pairs: Path, tmp_path: Path) -> None:
    """AdamW takes rate times decay off every weight at every step: with a decay of 200, a fifth, twice."""
    decayed = trained(base, pairs, tmp_path, weight_decay=200)
    before, after = (one.weights("lora_A") for one in (plain, decayed))
    large = before.abs() > 0.05  # what Adam adds to them, a thousandth a step, is little to these
    torch.testing.assert_close(after[large], 0.64 * before[large], rtol=0.1, atol=3e-3)


@pytest.mark.claims("train.adam_beta2", "train.save_steps")
def test_beta2_counts_from_the_second_step_on(base: Path, pairs: Path, tmp_path: Path) -> None:
    """The first step is the gradient's sign whatever it is. A stage keeps its newest intermediate checkpoint until it is finished."""
    usual, quick = (
        trained(base, pairs, tmp_path / str(beta2), adam_beta2=beta2, batch_size=4, epochs=1) for beta2 in (0.999, 0.1)
    )
    assert [one.log[0]["loss"] for one in (usual, quick)] == [usual.log[0]["loss"]] * 2
    assert usual.log[1]["loss"] == pytest.approx(quick.log[1]["loss"], abs=1e-6), "before the second step they are one"
    assert (usual.weights("lora_B") - quick.weights("lora_B")).abs().max() > 1e-5


@pytest.mark.claims("train.adam_epsilon")
def test_epsilon_makes_small_gradients_small_steps(plain: Trained, base: Path, pairs: Path, tmp_path: Path) -> None:
    damped = trained(base, pairs, tmp_path, adam_epsilon=10.0)
    assert damped.weights("lora_B").abs().max() < plain.weights("lora_B").abs().max() / 20


@pytest.mark.claims("train.max_grad_norm")
def test_gradients_are_cut_to_their_norm(base: Path, pairs: Path, tmp_path: Path) -> None:
    """With an epsilon above all gradients, a step is as long as its gradient: in all, rate times norm over epsilon."""
    cut = trained(base, pairs, tmp_path, max_grad_norm=1e-3, adam_epsilon=1.0, batch_size=8)
    moved = torch.cat([cut.weights("lora_B")])
    assert moved.norm().item() == pytest.approx(1e-3 * 1e-3, rel=0.05)


@pytest.mark.claims("train.max_length")
def test_responses_are_cut_at_the_longest_length(plain: Trained, base: Path, pairs: Path, tmp_path: Path) -> None:
    _, encoded = started(DPO(), plan_job(base, pairs, tmp_path, max_length=256))
    lengths = [len(one.prefixes["original"]) + max(map(len, one.responses.values())) for one in encoded]
    shorter = sorted(lengths)[-2]
    assert plain.summary.truncated_responses == 0
    assert trained(base, pairs, tmp_path / "run", max_length=shorter - 1).summary.truncated_responses > 0


@pytest.mark.claims("train.tuning")
def test_tuning(plain: Trained, base: Path, pairs: Path, tmp_path: Path) -> None:
    full = trained(base, pairs, tmp_path, tuning="full", batch_size=8)
    assert (plain.folder / "checkpoint/adapter_model.safetensors").exists()
    assert not (full.folder / "checkpoint/adapter_config.json").exists()
    before, after = (load_file(folder / "model.safetensors") for folder in (base, full.folder / "checkpoint"))
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert any("language_model" in name for name in moved) and not any("vision_tower" in name for name in moved)


@pytest.mark.claims("train.lora.rank", "train.lora.alpha")
def test_rank_and_alpha(plain: Trained, base: Path, pairs: Path, tmp_path: Path) -> None:
    larger = trained(base, pairs, tmp_path, lora={"rank": 3, "alpha": 60})
    assert (plain.adapter["r"], plain.adapter["lora_alpha"]) == (2, 4)
    assert (larger.adapter["r"], larger.adapter["lora_alpha"]) == (3, 60)
    assert len(larger.weights("lora_B")) == len(plain.weights("lora_B")) * 3 // 2
    # The adapter's part of a product is scaled by alpha over rank: ten times as much after the same first step.
    first, other = (abs(one.log[1]["reward_chosen"]) for one in (plain, larger))
    assert other > 4 * first


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_does_not_accept_is_refused_at_the_start(seed: int, tmp_path: Path) -> None:
    """Not after the reference's values were computed; the folder of the model is not even looked at."""
    request = AlignRequest("dpo", "pocket", tmp_path, data="none.jsonl", settings={"train": {"seed": seed}})
    with pytest.raises(BadInputError, match="for 'seed' of train"):
        run_align(request)
    assert not list(tmp_path.iterdir())


@pytest.mark.claims("train.lora.dropout")
def test_dropout(plain: Trained, base: Path, pairs: Path, tmp_path: Path) -> None:
    dropped = trained(base, pairs, tmp_path, lora={"dropout": 0.5})
    assert dropped.adapter["lora_dropout"] == 0.5
    assert not torch.equal(dropped.weights("lora_B"), plain.weights("lora_B"))


@pytest.mark.claims("train.seed")
def test_seed(plain: Trained, base: Path, pairs: Path, tmp_path: Path) -> None:
    again, other = (trained(base, pairs, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert torch.equal(again.weights("lora"), plain.weights("lora"))
    assert not torch.equal(other.weights("lora_A"), plain.weights("lora_A")), "adapters begin alike"
    assert other.log[0] != plain.log[0], "the order is the same"


@pytest.mark.slow
@pytest.mark.claims("train.keep_stages", "mfpo.stages.count")
@pytest.mark.parametrize("kept", [True, False])
def test_stages_are_kept_or_not(kept: bool, base: Path, pairs: Path, tmp_path: Path) -> None:
    method = MFPO(MFPO.Settings.model_validate({"stages": {"count": 2}}))
    trained(base, pairs, tmp_path, method, keep_stages=kept, batch_size=8)
    found = sorted(path.parent.name for path in tmp_path.glob("stages/*/checkpoint"))
    assert len(found) == (2 if kept else 0)


@pytest.mark.claims("train.gradient_checkpointing")
@pytest.mark.parametrize("again", [False, True])
def test_activations_are_computed_again(again: bool, base: Path, pairs: Path, tmp_path: Path) -> None:
    """A layer is run once a pass, or once more in the backward pass."""
    trainer, encoded = started(DPO(), plan_job(base, pairs, tmp_path, gradient_checkpointing=again))
    calls: list[int] = []
    trainer.policy.layers[0].self_attn.o_proj.register_forward_hook(lambda *_: calls.append(1))
    trainer.policy.model.train()
    batch = trainer.batch(encoded[:1])
    trainer.policy.model(batch).sum().backward()
    assert len(calls) == (2 if again else 1) * len(batch.blocks)


@pytest.mark.claims("train.savings.shared_prefix", "train.savings.feature_cache")
def test_savings_of_tokens_and_of_images(base: Path, pairs: Path, tmp_path: Path) -> None:
    on, encoded = started(DPO(), plan_job(base, pairs, tmp_path))
    off, _ = started(DPO(), plan_job(base, pairs, tmp_path, savings={"shared_prefix": False, "feature_cache": False}))
    prompts = sum(len(one.prefixes["original"]) for one in encoded[:4])
    less = off.batch(encoded[:4]).tokens - on.batch(encoded[:4]).tokens
    assert less > 0.5 * prompts, "two responses of a prompt share it"
    assert (on.features, off.features) == (
        f"{len({i.fingerprint() for e in encoded for i in e.images.values()})} images",
        "off",
    )
    assert on.policy.feature_bytes and not off.policy.feature_bytes


@pytest.mark.claims("train.savings.chunked_logits", "train.savings.lean_layers")
def test_savings_of_logits_and_of_copies(base: Path, pairs: Path, tmp_path: Path) -> None:
    """What is held for the backward pass: no logits, and less of every layer."""
    held = {}
    for name, savings in (("on", {}), ("logits", {"chunked_logits": False}), ("layers", {"lean_layers": False})):
        trainer, encoded = started(DPO(), plan_job(base, pairs, tmp_path, savings=savings))
        trainer.policy.model.train()
        kept: dict[int, torch.Tensor] = {}

        def keep(value: torch.Tensor, kept: dict[int, torch.Tensor] = kept) -> torch.Tensor:
            kept[value.data_ptr()] = value
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            trainer.policy.model(trainer.batch(encoded[:4]))
        vocabulary = trainer.policy.plain.config.text_config.vocab_size
        held[name] = (
            sum(value.nbytes for value in kept.values()),
            any(
                value.dim() == 2 and value.shape[-1] == vocabulary and value.dtype == torch.float32
                for value in kept.values()
            ),
        )
    assert [held[name][1] for name in ("on", "logits", "layers")] == [False, True, False], held
    assert held["layers"][0] > 1.2 * held["on"][0], held
