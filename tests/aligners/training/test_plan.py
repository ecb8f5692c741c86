"""`align --dry-run`: what it says is what training then does, and nothing is trained or written."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from aligners.dpo import DPO
from aligners.mfpo import MFPO
from aligners.training.job import AlignJob
from aligners.training.layout import row_lengths
from aligners.training.memory.batch import accumulation, steps_of
from aligners.training.memory.footprint import architecture, footprint
from aligners.training.memory.peak import Peak
from aligners.training.microbatches import MicroBatches
from aligners.training.planning import plan as planning
from aligners.training.planning.plan import plan
from aligners.training.session import Session
from harness.cli import app
from harness.cli.align_plan import largest_micro_batch
from harness.cli.errors import run
from harness.core.config import TrainSettings
from harness.core.memory import written_bytes

SETTINGS = {"batch_size": 8, "micro_batch_size": 4, "max_length": 256, "lora": {"rank": 4, "alpha": 8}}


def job(base: Path, pairs: Path, output: Path, **settings: Any) -> AlignJob:
    train = TrainSettings.model_validate({**SETTINGS, **settings})
    return AlignJob(str(base), str(pairs), output / "run", train, output / "cache")


class OneProcess:
    """What the trainer asks of accelerate's state where there is one process."""

    process_index, num_processes, is_main_process = 0, 1, True


def started(aligner: Any, request: AlignJob) -> tuple[Session, list[Any]]:
    """The trainer, ready to train, and its examples."""
    from aligners.preferences import read_preferences

    data = read_preferences(request.data, limit=None, seed=0, cache=request.cache, on_error="fail")
    trainer = Session(aligner, request, data.examples, OneProcess())
    return trainer, [trainer.encoded[example.id] for example in data.examples]


def test_steps_and_tokens_are_those_of_the_training(base: Path, pairs: Path, tmp_path: Path) -> None:
    request = job(base, pairs, tmp_path, epochs=2)
    planned = plan(DPO(), request)
    assert not request.output.exists(), "a plan writes nothing"
    trainer, encoded = started(DPO(), request)
    micro, passes = accumulation(request.train)
    steps = steps_of(len(encoded), request.train)
    assert planned["examples"] == {"count": 45, "dropped": 0}
    assert planned["stages"] == [{"name": "all", "examples": 45, "steps": steps}] and steps == 12
    assert planned["step"] == {
        "batch_size": 8, "micro_batch_size": micro, "passes": passes, "gradient_checkpointing": False, "chosen": False
    }  # fmt: skip
    batches = MicroBatches(trainer, encoded, steps // 2, micro, passes, (0, 1))
    held = [batches.chosen(index) for index in range(len(batches))]
    positions = sum(trainer.batch(examples).tokens for examples, weights in held if weights[0])
    assert planned["tokens"]["epoch_with_padding"] == positions
    assert planned["tokens"]["longest_row"] == max(max(row_lengths(example, DPO.branches)) for example in encoded)
    assert planned["time"]["seconds"] > 0 and planned["time"]["training"] > planned["time"]["reference"] > 0
    assert planned["time"]["features_kept"] == trainer.policy.feature_bytes * len(
        {image.fingerprint() for example in encoded for image in example.images.values()}
    )
    assert planned["estimated"] == []


def test_mfpo_is_planned_without_its_images_and_without_its_entropies(base: Path, pairs: Path, tmp_path: Path) -> None:
    planned = plan(MFPO(), job(base, pairs, tmp_path))
    assert [(one["name"], one["examples"]) for one in planned["stages"]] == [("easy", 15), ("medium", 15), ("hard", 15)]
    assert [one["steps"] for one in planned["stages"]] == [2, 2, 2]
    assert not (tmp_path / "cache" / "image_preferences").exists()
    assert "45 rejected images were not made" in planned["estimated"][0]
    assert planned["disk"]["rejected_images"] > 45 * 500 and planned["time"]["difficulty"] > 0
    text = plan(DPO(), job(base, pairs, tmp_path))
    assert planned["tokens"]["epoch"] > 1.3 * text["tokens"]["epoch"], "rows of the rejected images count"


def test_generating_the_own_answers_that_order_the_examples_takes_time(
    base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: dict[tuple[int, int], float] = {}
    generate = planning.own_answers

    def timing(session: Any, encoded: Any, examples: Any, longest: int) -> list[list[int]]:
        start = time.perf_counter()
        answers = generate(session, encoded, examples, longest)
        timed[len(examples), longest] = time.perf_counter() - start
        return answers

    monkeypatch.setattr(planning, "own_answers", timing)
    stages = {"answer": "own", "max_new_tokens": 64}
    planned = plan(MFPO(MFPO.Settings.model_validate({"stages": stages})), job(base, pairs, tmp_path))
    assert set(timed) == {(8, 1), (8, 64)}, "two micro-batches at a time, as the training generates them"
    took = 45 * timed[8, 64] / 8
    assert planned["time"]["difficulty"] >= round(took, 1)
    assert planned["time"]["seconds"] > planned["time"]["difficulty"]
    assert "8 own answers of at most 64 tokens" in planned["time"]["measured"]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_what_is_counted_is_what_the_model_has_and_keeps(base: Path, pairs: Path, tmp_path: Path, tuning: str) -> None:
    request = job(base, pairs, tmp_path, tuning=tuning)
    trainer, encoded = started(DPO(), request)
    counted = architecture(str(base), request.train)
    model = trainer.policy.model
    trained = [value for value in model.parameters() if value.requires_grad]
    assert counted.trained == sum(value.numel() for value in trained)
    adapters = counted.trained if tuning == "lora" else 0
    assert counted.weights + adapters == sum(value.numel() for value in model.parameters())

    examples = encoded[:8]
    batch = trainer.batch(examples)
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept[value.untyped_storage().data_ptr()] = value
        return value

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        total = model(batch).sum()
    saved = sum(value.untyped_storage().nbytes() for place, value in kept.items() if place not in weights)
    total.backward()
    rows = [length for example in examples for length in row_lengths(example, DPO.branches)]
    responses = sum(len(ids) for example in examples for ids in example.responses.values())
    predicted = footprint(counted, request.train, bfloat16=False, copy=False, rows=rows, responses=responses)
    # What the backward pass makes on the way is not in what the forward pass kept.
    assert saved / 1.2 < predicted.activations < saved * 1.8
    assert predicted.gradients == sum(value.grad.nbytes for value in trained if value.grad is not None)
    assert predicted.weights == sum(value.nbytes for value in model.parameters())


def test_checkpointing_and_smaller_micro_batches_take_less(base: Path) -> None:
    def peak(rows: int, **settings: Any) -> int:
        train = TrainSettings.model_validate({**SETTINGS, **settings})
        counted = architecture(str(base), train)
        return footprint(counted, train, bfloat16=False, copy=False, rows=[90] * rows, responses=40 * rows).activations

    assert peak(8) > 1.9 * peak(4)
    assert peak(8) > 1.3 * peak(8, gradient_checkpointing=True)


def test_what_to_lower_is_the_first_that_fits(base: Path) -> None:
    train = TrainSettings.model_validate({**SETTINGS, "micro_batch_size": 8})
    rows = {str(number): [90, 80] for number in range(8)}
    peak = Peak(architecture(str(base), train), rows, dict.fromkeys(rows, 40), copy=False, gpu=False)
    two, single = (peak.of(train, micro).total for micro in (2, 1))
    assert "--set train.micro_batch_size=2 changes nothing else" in peak.remedy(train, 8, two)
    assert f"takes {written_bytes(two)} by prediction" in peak.remedy(train, 8, two)
    assert "--set train.micro_batch_size=4" in peak.remedy(train, 8, 2**40), "it should have fitted: one step down"
    both = peak.remedy(train, 8, single - 1)
    assert "train.micro_batch_size=1 --set train.gradient_checkpointing=true takes about a third more time" in both
    assert "train.max_length (the longest row has 90 tokens)" in peak.remedy(train, 8, 1)


@pytest.mark.parametrize(("asked", "named"), [(None, True), (True, False), (False, False)])
def test_a_smaller_number_keeps_the_checkpointing_that_was_chosen(asked: bool | None, named: bool, base: Path) -> None:
    """With the recommended number alone it would be switched off, and memory would run out again."""
    user = TrainSettings.model_validate({**SETTINGS, "micro_batch_size": "auto", "gradient_checkpointing": asked})
    train = user.model_copy(update={"micro_batch_size": 8, "gradient_checkpointing": asked is not False})
    rows = {str(number): [90, 80] for number in range(8)}
    peak = Peak(architecture(str(base), user), rows, dict.fromkeys(rows, 40), copy=False, gpu=False)
    said = peak.remedy(train, 8, 2**40, user)
    assert said.startswith("--set train.micro_batch_size=4 ")
    assert ("=4 --set train.gradient_checkpointing=true changes nothing else" in said) == named
    assert named or "gradient_checkpointing" not in said


@pytest.mark.parametrize(
    ("largest", "again", "said"),
    [
        (4, False, "4 fits, with"),
        (4, True, "4 fits with train.gradient_checkpointing=true, with"),
        (0, True, "none fits"),
    ],
)
def test_the_largest_number_is_shown_with_what_it_needs(largest: int, again: bool, said: str) -> None:
    assert largest_micro_batch({"largest_micro_batch": largest}, {"gradient_checkpointing": again}).startswith(said)


def test_what_does_not_fit_is_said_and_not_tried(
    base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=0))
    monkeypatch.setattr(planning, "_time", lambda *arguments: pytest.fail("it was tried"))
    found = plan(DPO(), job(base, pairs, tmp_path))
    assert not found["memory"]["fits"] and found["memory"]["largest_micro_batch"] == 0 and found["time"] is None
    assert "would not fit" in found["estimated"][-1]


@pytest.mark.slow
@pytest.mark.claims("align --dry-run", "align --json")
def test_the_command_shows_the_plan(
    base: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["align", "--method", "mfpo", "--model", str(base), "--data", str(pairs), "--name", "x", "--dry-run"]
    command += ["--results", str(tmp_path / "results"), "--set", "train.max_length=256"]
    assert run(app, [*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "mfpo" and found["memory"]["predicted_peak"] > found["memory"]["activations"] > 0
    assert run(app, command) == 0
    shown = capsys.readouterr().out
    assert "stage easy" in shown and "peak memory" in shown and "rejected images were not made" in shown
    assert not (tmp_path / "results").exists()
