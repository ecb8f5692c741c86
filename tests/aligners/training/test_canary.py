"""The canary is quiet where the trainer is right, for every family, and stops a run for each fault that it was made for.

Every fault is one that the trainer had: what mends it is taken out again here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import get_worker_info

from aligners.base import Logps, Loss
from aligners.chip import CHiP
from aligners.dpo import DPO
from aligners.mfpo import MFPO
from aligners.training import batches, masks, policy
from aligners.training import run as training
from aligners.training.checks import canary as canary_of
from aligners.training.families import Family
from aligners.training.job import AlignJob
from harness.cli import app
from harness.cli.errors import run
from harness.core.config import TrainSettings
from harness.core.errors import HarnessError
from harness.core.files import read_json
from harness.models import export_full, processors
from tests.tiny import tiny_photograph
from tests.tiny_families import FAMILIES
from tests.tiny_variants import VARIANTS

pytestmark = pytest.mark.slow
EVERY: dict[str, Callable[[], tuple[Any, Any]]] = {**FAMILIES, **VARIANTS}
SETTINGS = {
    "learning_rate": 1e-3,
    "batch_size": 4,
    "micro_batch_size": 2,
    "max_length": 512,
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
}


def made(kind: str, folder: Path) -> tuple[Path, Path]:
    """A base of a family, and pairs with pictures of several sizes and answers that open alike."""
    export_full(*EVERY[kind](), folder / "base")
    rows = []
    for number, size in enumerate(((40, 24), (60, 90), (48, 48), (40, 24))):
        tiny_photograph(folder / f"{number}.png", number, size)
        texts = {"chosen": f"a red cat {number}", "rejected": f"a red dog and {number} cups on a table with a plate"}
        row = {"id": str(number), "image": f"{number}.png", "prompt": "What is in the picture?", **texts}
        rows.append(json.dumps(row))
    (folder / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "base", folder / "pairs.jsonl"


def align(where: tuple[Path, Path], output: Path, aligner: Any = None, canary: bool = True, **settings: Any) -> Any:
    """The summary of an alignment; the cache lies beside its output."""
    output.mkdir(parents=True, exist_ok=True)
    train = TrainSettings.model_validate({**SETTINGS, **settings})
    job = AlignJob(str(where[0]), str(where[1]), output, train, output.parent / "cache", canary=canary)
    return training.train(aligner or DPO(), job).summary.written()


def stopped(where: tuple[Path, Path], output: Path, **options: Any) -> HarnessError:
    """The error with which an alignment stops, before it has made a step."""
    with pytest.raises(HarnessError, match=r"^canary: ") as caught:
        align(where, output, **options)
    assert not (output / "train_log.jsonl").exists() and not list(output.glob("stages/*/checkpoint-*"))
    assert "--no-canary" in str(caught.value.remedy) and caught.value.exit_code == 1
    return caught.value


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"tuning": "full"}, marks=pytest.mark.exhaustive),
        {"precision": "bfloat16", "gradient_checkpointing": True},
    ],
)
@pytest.mark.parametrize("kind", EVERY)
def test_it_is_quiet_where_the_trainer_is_right(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    summary = align(made(kind, tmp_path), tmp_path / "run", **settings)
    found = summary["canary"]
    bound = 5e-3 if settings.get("precision") == "bfloat16" else 1e-5
    assert found["difference"] < bound < found["allowed"] and found["examples"] and found["left_out"] == []
    assert summary["stages"][0]["canary"]["reward"] < bound


def test_methods_of_many_branches_and_divergences_pass_it(base: Path, pairs: Path, tmp_path: Path) -> None:
    """And of several stages, each of which begins as its reference; with dropout only the first is known to."""
    for dropout, looked_at in ((0.0, 3), (0.1, 1)):
        lora = {"rank": 4, "alpha": 8, "dropout": dropout}
        summary = align((base, pairs), tmp_path / str(dropout), MFPO(), lora=lora)
        assert sum(stage["canary"] is not None for stage in summary["stages"]) == looked_at
    assert align((base, pairs), tmp_path / "chip", CHiP())["stages"][0]["canary"]["reward"] < 1e-4


def lose_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a loader's process, images are other objects than those whose features are kept."""
    right = batches.Preparer._block

    def block(self: Any, one: Any) -> Any:
        return right(self, one) if get_worker_info() is None else replace(one, images=[])

    monkeypatch.setattr(batches.Preparer, "_block", block)


@pytest.mark.claims("train.workers")
def test_features_that_a_worker_loses_are_noticed(
    base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_pictures(monkeypatch)
    align((base, pairs), tmp_path / "none", workers=0)
    with pytest.raises(HarnessError, match="without its images") as caught:
        align((base, pairs), tmp_path / "one", canary=False, workers=1)
    assert "train.workers=0" in str(caught.value.remedy)

    careful = policy.Policy._hidden

    def hidden(self: Any, block: Any, plain: Any) -> Any:
        """What was computed before a batch without pictures was an error."""
        if block.features or block.image_inputs:
            return careful(self, block, plain)
        mask = masks.layer_masks(block, plain.config, plain.dtype)
        given = {"input_ids": block.input_ids, "attention_mask": mask, "position_ids": block.position_ids}
        return plain.model(**given, use_cache=False).last_hidden_state

    monkeypatch.setattr(policy.Policy, "_hidden", hidden)
    error = stopped((base, pairs), tmp_path / "two", workers=1)
    assert "the model's own forward pass" in error.problem
    assert str(error.remedy).startswith("--set train.workers=0 makes it pass")


@pytest.mark.parametrize("kind", ["llava-mistral", "llava-qwen2", "gemma3"])
def test_a_mask_without_the_models_window_is_noticed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "_windowed", lambda allowed, order, window: allowed)
    error = stopped(made(kind, tmp_path), tmp_path / "run")
    assert "differ from those" in error.problem and "none of train.savings" in str(error.remedy)


def test_a_prefix_that_is_shared_under_linear_attention_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Family, "not_possible", lambda self, config: {"feature_cache": "it has no such tower"})
    error = stopped(made("qwen3.5", tmp_path), tmp_path / "run")
    assert "differ from those" in error.problem
    assert str(error.remedy).startswith("--set train.savings.shared_prefix=false makes it pass")


@pytest.mark.parametrize("kind", ["gemma3", "pixtral"])
def test_a_first_token_that_is_there_twice_is_noticed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "text_options", lambda processor: {})
    error = stopped(made(kind, tmp_path), tmp_path / "run")
    assert "apply_chat_template(tokenize=True): from position 1 on" in error.problem


def test_layers_without_an_adapter_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Phi-3's fused products were, which the pattern of names did not know."""
    where = made("llava-phi3", tmp_path)
    align(where, tmp_path / "right")
    import peft

    right = peft.get_peft_model

    def by_name(model: Any, config: Any) -> Any:
        names = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
        config.target_modules = rf".*language_model.*\.({names})"
        return right(model, config)

    monkeypatch.setattr(peft, "get_peft_model", by_name)
    error = stopped(where, tmp_path / "wrong")
    assert "none on qkv_proj, gate_up_proj" in error.problem and "train.lora.targets" in str(error.remedy)


def test_adapters_in_the_tower_are_noticed(
    base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    right = peft.get_peft_model

    def everywhere(model: Any, config: Any) -> Any:
        config.target_modules = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
        return right(model, config)

    monkeypatch.setattr(peft, "get_peft_model", everywhere)
    error = stopped((base, pairs), tmp_path / "run")
    assert "weights outside the language model" in error.problem and "vision_tower" in str(error.where)


def test_modules_that_are_chosen_are_no_fault_and_the_others_are_said(base: Path, pairs: Path, tmp_path: Path) -> None:
    lora = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}
    found = align((base, pairs), tmp_path / "run", lora=lora)["canary"]
    assert found["left_out"] == ["k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_values_of_another_model_in_the_cache_are_noticed(tmp_path: Path) -> None:
    where = made("llava-1.5", tmp_path)
    align(where, tmp_path / "first")
    for part in (tmp_path / "cache" / "reference").glob("*/part-*.npz"):
        stored = dict(np.load(part))
        np.savez(part, **{**stored, "values": stored["values"] - 0.5})
    error = stopped_at_the_first_batch(where, tmp_path / "second")
    assert "the reward of branch" in error.problem
    assert str(error.remedy).startswith("--set train.savings.reference_cache=false makes it pass")
    align(where, tmp_path / "third", savings={"reference_cache": False})


def stopped_at_the_first_batch(where: tuple[Path, Path], output: Path, aligner: Any = None) -> HarnessError:
    with pytest.raises(HarnessError, match=r"^canary: before the first update") as caught:
        align(where, output, aligner)
    assert not (output / "train_log.jsonl").exists() and not (output / "checkpoint").exists()
    return caught.value


def test_too_much_rounding_is_said_to_be_the_precisions(
    base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(canary_of.TOLERANCE, "bfloat16", 1e-7)
    error = stopped((base, pairs), tmp_path / "run", precision="bfloat16")
    assert str(error.remedy).startswith("--set train.precision=float32 makes it pass")


class Odd(DPO):
    """A method whose first loss is not what its formula gives."""

    calls = 0

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        self.calls += 1
        found = super().loss(policy, reference)
        return found if self.calls > 1 else Loss(found.per_example + 1, found.metrics)


def test_a_loss_that_is_not_its_formula_is_noticed(base: Path, pairs: Path, tmp_path: Path) -> None:
    error = stopped_at_the_first_batch((base, pairs), tmp_path / "run", Odd())
    assert "'loss' is 1.69315, but the formula of 'dpo' gives 0.693147 for rewards of 0" in error.problem


@pytest.mark.claims("align --no-canary")
def test_the_command_says_it_and_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, data = made("llava-mistral", tmp_path)
    sets = [part for name in ("batch_size=4", "max_length=512") for part in ("--set", f"train.{name}")]
    command = ["align", "--method", "dpo", "--model", str(base), "--data", str(data), "--name", "one", *sets]
    command += ["--results", str(tmp_path / "results")]
    assert run(app, [*command, "--name", "right"]) == 0
    assert "canary: the trainer computes what the model does" in " ".join(capsys.readouterr().err.split())
    manifest = read_json(tmp_path / "results" / "right" / "manifest.json")
    assert manifest["summary"]["canary"]["examples"] and manifest["summary"]["stages"][0]["canary"]

    monkeypatch.setattr(masks, "_windowed", lambda allowed, order, window: allowed)
    assert run(app, command) == 1
    assert "--no-canary trains without the check" in " ".join(capsys.readouterr().err.split())
    assert run(app, [*command, "--overwrite", "--no-canary"]) == 0
    assert read_json(tmp_path / "results" / "one" / "manifest.json")["summary"]["canary"] is None


def test_it_changes_nothing_of_the_training(base: Path, pairs: Path, tmp_path: Path) -> None:
    logs = []
    for canary in (True, False):
        align((base, pairs), tmp_path / str(canary), canary=canary)
        rows = (tmp_path / str(canary) / "train_log.jsonl").read_text().splitlines()
        logs.append([(row["loss"], row["reward_chosen"]) for row in map(json.loads, rows)])
    assert logs[0] == logs[1] and logs[0][-1][1] != 0
