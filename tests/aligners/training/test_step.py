"""`train.micro_batch_size=auto`: the most examples per forward pass for which the predicted memory suffices, and the same training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aligners.dpo import DPO
from aligners.training.encoding import EncodedExample
from aligners.training.job import AlignJob
from aligners.training.memory import step as deciding
from aligners.training.memory.footprint import Shares, architecture
from aligners.training.memory.peak import Peak
from aligners.training.memory.step import GPU, RAM, Room, StepSize, decide, kept_features
from harness.cli import app
from harness.cli.errors import run
from harness.core.config import TrainSettings, parse
from harness.core.errors import BadInputError
from harness.core.memory import available
from tests.aligners.training.test_plan import OneProcess, job, started

GB = 10**9


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders with the configurations of LLaVA-1.5 and LLaVA-1.6 with Vicuna 7B: nothing else is needed to count."""
    from harness.models import quiet_transformers

    quiet_transformers()
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaNextConfig

    tower = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip
    folders = {}
    for name, kind in (("1.5", LlavaConfig), ("1.6", LlavaNextConfig)):
        folder = tmp_path_factory.mktemp("seven")
        kind(vision_config=tower, text_config=LlamaConfig(vocab_size=32064)).save_pretrained(folder)
        folders[name] = str(folder)
    return folders


def peak_of(location: str, train: TrainSettings, image: int, shares: Shares | None = None) -> Peak:
    """Pairs of DPO on a GPU: an image, 60 tokens of prompt, two responses of 120."""
    names = [str(number) for number in range(64)]
    shares = shares or Shares()
    rows, responses = {name: [image + 300] for name in names}, dict.fromkeys(names, 240)
    return Peak(architecture(location, train), rows, responses, copy=False, gpu=True, shares=shares)


def taken(step: StepSize) -> tuple[int, int, bool]:
    return step.train.micro, step.passes, bool(step.train.gradient_checkpointing)


@pytest.mark.parametrize(
    ("model", "image", "card", "expected"),
    [
        ("1.5", 576, 24, (1, 32, False)),
        ("1.5", 576, 80, (16, 2, False)),
        ("1.6", 2880, 24, (2, 16, True)),
        ("1.6", 2880, 80, (4, 8, False)),
    ],
)
def test_what_a_card_takes_at_7_b(
    model: str, image: int, card: int, expected: tuple[int, int, bool], seven: dict[str, str]
) -> None:
    """With 4 examples a pass these models were predicted to take 27.5 and 57.9 GiB."""
    train = TrainSettings()
    peak = peak_of(seven[model], train, image)
    assert peak.of(train, 4).total / 2**30 == pytest.approx({"1.5": 27.5, "1.6": 57.9}[model], abs=0.06)
    step = decide(train, peak, Room(GPU, card * GB))
    assert taken(step) == expected
    assert step.predicted == peak.of(step.train, step.train.micro).total <= 0.9 * card * GB
    twice = step.train.model_copy(update={"micro_batch_size": 2 * step.train.micro})
    assert peak.of(twice, twice.micro).total > 0.9 * card * GB, "the next larger one would not fit"
    again = train.model_copy(update={"gradient_checkpointing": False})
    assert expected[2] == (peak.of(again, 1).total > 0.9 * card * GB), "computed again only where it must be"


def test_all_weights_fit_where_processes_share_them_out(seven: dict[str, str]) -> None:
    train = TrainSettings(tuning="full")
    with pytest.raises(BadInputError, match="not even one example") as caught:
        decide(train, peak_of(seven["1.5"], train, 576), Room(GPU, 80 * GB))
    said = str(caught.value.remedy)
    assert (
        "--lora" in said
        and "train.max_length" in said
        and "train.micro_batch_size=1 --set train.gradient_checkpointing=true tries it" in said
    )
    assert "shard the weights over 2 GPUs (harness launch --processes 2 --sharding fsdp align ...: " in said
    shared = peak_of(seven["1.5"], train, 576, Shares(8, weights=True))
    assert decide(train, shared, Room(GPU, 80 * GB), 8).train.micro == 4, "8 processes have 4 examples each"
    moments = peak_of(seven["1.5"], train, 576, Shares(8, moments=True))
    alone = peak_of(seven["1.5"], train, 576)
    assert moments.of(train, 1).optimizer == pytest.approx(alone.of(train, 1).optimizer * 12 / 8 / 8, rel=1e-6)


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
def test_more_gpus_are_only_recommended_where_they_help(seven: dict[str, str], tuning: str) -> None:
    """A model that does not fit on one GPU, and one in 4 bits, which is not sharded."""
    train = TrainSettings.model_validate({"tuning": tuning})
    with pytest.raises(BadInputError, match="not even one example") as caught:
        decide(train, peak_of(seven["1.5"], train, 576), Room(GPU, 3 * GB))
    assert "use a GPU with more memory: the smallest step" in str(caught.value.remedy)


def test_each_process_holds_the_whole_model_before_it_is_sharded(seven: dict[str, str]) -> None:
    """And CHiP's copy of the initial model during all of the training: it is no part of the model, so nothing shards it."""
    eight = Shares(8, weights=True)
    train = TrainSettings(micro_batch_size=1, gradient_checkpointing=True)
    adapters = peak_of(seven["1.5"], train, 576, eight)
    counted = adapters.model
    loaded = adapters.of(train, 1)
    assert loaded.weights >= counted.weights * 2 and (loaded.gradients, loaded.optimizer) == (0, 0)
    assert 0 < loaded.total - loaded.weights < GB, "a pass without gradient"
    with pytest.raises(BadInputError, match="not even one example") as caught:
        decide(TrainSettings(), adapters, Room(GPU, 12 * GB), 8)
    assert "each holds the whole model before it is sharded" in str(caught.value.remedy)
    assert "--qlora, without --sharding" in str(caught.value.remedy)

    full = train.model_copy(update={"tuning": "full"})
    plain = peak_of(seven["1.5"], full, 576, eight)
    chip = replace(plain, copy=True)
    copied = counted.weights * 4
    assert chip.of(full, 1).weights == plain.of(full, 1).weights + copied
    # A step of a small micro-batch on 2 processes takes more than the passes before; the copy is whole there, too.
    two, copy = replace(plain, shares=Shares(2, weights=True)), replace(chip, shares=Shares(2, weights=True))
    assert two.of(full, 1).optimizer > 0 and copy.of(full, 1).weights == two.of(full, 1).weights + copied
    alone = replace(chip, shares=Shares())
    assert alone.of(full, 1).weights == counted.weights * (4 + 4 + 2), "without sharding nothing else is counted"


@pytest.mark.claims("train.micro_batch_size")
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, (2, 4, True)),
        ({"gradient_checkpointing": False}, None),
        ({"gradient_checkpointing": True}, (2, 4, True)),
        ({"micro_batch_size": 3}, (2, 4, False)),
        ({"micro_batch_size": 3, "gradient_checkpointing": True}, (2, 4, True)),
    ],
)
def test_what_is_named_is_taken(wanted: dict[str, Any], expected: tuple[int, int, bool] | None, base: Path) -> None:
    """In a room for two examples that are computed again, and for none that is not."""
    train = TrainSettings.model_validate({"batch_size": 8, "lora": {"rank": 4}, **wanted})
    names = [str(number) for number in range(8)]
    counted = replace(architecture(str(base), train), layers=32)  # a deep model keeps much
    peak = Peak(counted, {name: [900] for name in names}, dict.fromkeys(names, 4), copy=False, gpu=False)
    again = train.model_copy(update={"gradient_checkpointing": True})
    plain = train.model_copy(update={"gradient_checkpointing": False})
    needed = peak.of(again, 2).total
    assert needed < peak.of(plain, 1).total, "else this tests nothing"
    room = Room(RAM, int((needed + 2000) / 0.8) + 1, program=500, features=1500)
    assert room.for_steps >= needed
    if expected is None:
        with pytest.raises(BadInputError, match="not even one example") as caught:
            decide(train, peak, room)
        assert "train.gradient_checkpointing=true" in str(caught.value.remedy)
        return
    step = decide(train, peak, room)
    assert taken(step) == expected and step.chosen == ("micro_batch_size" not in wanted)
    if step.chosen:
        assert step.predicted == needed + 2000 and "2 of 8" not in str(step.said())
        assert "4 passes of 2 examples, activations computed again" in str(step.said())
    else:
        assert "train.micro_batch_size=3 does not divide the 8 examples" in str(step.said())


def test_never_more_than_a_processs_share_of_the_batch_and_always_a_divisor(base: Path) -> None:
    train = TrainSettings(batch_size=12)
    names = [str(number) for number in range(40)]
    peak = Peak(architecture(str(base), train), {name: [90] for name in names}, dict.fromkeys(names, 40), False, False)
    assert taken(decide(train, peak, Room(RAM, 2**50), 1)) == (12, 1, False)
    assert taken(decide(train, peak, Room(RAM, 2**50), 2)) == (6, 1, False)
    five = peak.of(train, 5).total
    assert taken(decide(train, peak, Room(RAM, int(five / 0.8) + 1))) == (4, 3, False)
    with pytest.raises(BadInputError, match="cannot be divided among 5"):
        decide(train, peak, Room(RAM, 2**50), 5)


def test_a_run_goes_on_as_it_was_begun_where_that_fits(base: Path) -> None:
    train = TrainSettings(batch_size=8)
    names = [str(number) for number in range(8)]
    counted = replace(architecture(str(base), train), layers=32)
    peak = Peak(counted, {name: [900] for name in names}, dict.fromkeys(names, 4), copy=False, gpu=False)
    wide = Room(RAM, 2**50)
    kept = decide(train, peak, wide, begun=(2, True))
    assert taken(kept) == (2, 4, True) and "; as the run was begun)" in str(kept.said())
    assert taken(decide(train, peak, wide)) == (8, 1, False), "which would be taken otherwise"
    for asked, processes, expected in (
        (train.model_copy(update={"gradient_checkpointing": False}), 1, (8, 1, False)),
        (train, 8, (1, 1, False)),
    ):
        other = decide(asked, peak, wide, processes, begun=(2, True))
        assert taken(other) == expected
        assert "begun with 2 examples per pass, computed again, which cannot be kept" in str(other.said())
    narrow = Room(RAM, int(peak.of(train, 2).total / 0.8) + 1)
    less = decide(train, peak, narrow, begun=(4, False))
    assert taken(less) == (2, 4, False) and "begun with 4 examples per pass, which cannot be kept" in str(less.said())


@pytest.mark.parametrize(
    ("checkpointing", "begun", "resumed", "expected"),
    [
        (None, True, True, (2, 4, True)),
        (None, True, False, (2, 4, False)),
        (None, False, True, (2, 4, False)),
        (False, True, True, (2, 4, False)),
    ],
)
def test_a_number_keeps_the_checkpointing_that_the_run_was_begun_with(
    checkpointing: bool | None, begun: bool, resumed: bool, expected: tuple[int, int, bool], tmp_path: Path
) -> None:
    asked = {"batch_size": 8, "micro_batch_size": 2, "gradient_checkpointing": checkpointing}
    (tmp_path / "step.json").write_text(json.dumps({"micro_batch_size": 8, "gradient_checkpointing": begun}))
    order = AlignJob("model", "data", tmp_path, TrainSettings.model_validate(asked), tmp_path, resume=resumed)
    step = deciding.step_of(DPO(), order, [EncodedExample("1", {}, {}, {}, {})], OneProcess())
    assert taken(step) == expected
    kept = "activations are computed again, as the run was begun"
    assert (kept in str(step.said())) == expected[2]


@pytest.mark.parametrize(
    ("asked", "processes", "expected", "said"),
    [
        (3, 1, (2, 4, False), "train.micro_batch_size=3 does not divide the 8 examples of a step"),
        (
            3,
            2,
            (2, 2, False),
            "train.micro_batch_size=3 does not divide the 4 examples of each process's share of a step",
        ),
        (16, 1, (8, 1, False), "train.micro_batch_size=16 is more than a step has"),
        (4, 1, (4, 2, False), None),
    ],
)
def test_a_number_that_cannot_be_taken_is_said(
    asked: int, processes: int, expected: tuple[int, int, bool], said: str | None
) -> None:
    step = decide(TrainSettings(batch_size=8, micro_batch_size=asked), None, None, processes)
    assert taken(step) == expected
    assert step.said() is None if said is None else str(step.said()).endswith(said)


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "all", None])
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(BadInputError, match="auto, or a whole number of at least 1") as caught:
        parse(TrainSettings, {"micro_batch_size": value}, "train")
    assert "'micro_batch_size'" in caught.value.problem


def test_features_that_are_kept_are_counted(base: Path, pairs: Path, tmp_path: Path) -> None:
    trainer, encoded = started(DPO(), job(base, pairs, tmp_path))
    images = {image.fingerprint() for one in encoded for image in one.images.values()}
    config = trainer.policy.plain.config
    kept = kept_features(config, trainer.train_settings, encoded)
    assert kept == trainer.policy.feature_bytes * len(images) > 0
    off = trainer.train_settings.savings.model_copy(update={"feature_cache": False})
    assert kept_features(config, trainer.train_settings.model_copy(update={"savings": off}), encoded) == 0


class OfTwo:
    """What is asked of accelerate's state in one of two processes."""

    process_index, num_processes, is_main_process = 0, 2, True


def test_processes_divide_a_machine_and_take_what_the_poorest_has(
    base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import accelerate.utils
    import psutil

    trainer, encoded = started(DPO(), job(base, pairs, tmp_path))
    arguments = (trainer.policy.plain.config, trainer.train_settings, encoded)
    own = psutil.Process().memory_info().rss
    monkeypatch.setattr(deciding, "memory_there", lambda gpu: own + 8 * GB)
    asked: list[Any] = []

    def gather(values: list[Any]) -> list[Any]:
        asked.extend(values)
        return [*values, (own + GB, own)]

    monkeypatch.setattr(accelerate.utils, "gather_object", gather)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    room = deciding.room_for(OfTwo(), *arguments)
    assert (room.available - room.program) == GB, "the other process has less"
    ((mine, program),) = asked
    assert mine - program == pytest.approx(4 * GB, abs=GB / 10), "half of what is free"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # on a machine each
    asked.clear()
    deciding.room_for(OfTwo(), *arguments)
    assert asked[0][0] - asked[0][1] == pytest.approx(8 * GB, abs=GB / 10)


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_is_the_memory_that_there_is(version: int, tmp_path: Path) -> None:
    """The kernel ends what takes more, however much the machine has free."""
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    top = tmp_path if version == 2 else tmp_path / "memory"
    inner = top / "job" / "step"
    inner.mkdir(parents=True)
    chosen = tmp_path / "own"
    chosen.write_text("0::/job/step\n" if version == 2 else "3:cpu:/job/step\n2:memory:/job/step\n")
    there = available(tmp_path, chosen)
    assert there > 3000, "without limits it is what the machine has"
    (top / "job" / names[0]).write_text("3000\n")
    (top / "job" / names[1]).write_text("1200\n")
    (inner / names[0]).write_text("max\n" if version == 2 else str(2**63 - 4096))
    (inner / names[1]).write_text("900\n")
    assert available(tmp_path, chosen) == 1800, "the group above is the narrow one"
    stat = "inactive_file 200\n" if version == 2 else "inactive_file 1\ntotal_inactive_file 200\n"
    (top / "job" / "memory.stat").write_text(stat)
    assert available(tmp_path, chosen) == 2000, "files in memory are given up"
    assert available(tmp_path, tmp_path / "none") >= 2000


@pytest.mark.slow
def test_the_command_says_and_records_what_was_chosen(
    base: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["align", "--method", "dpo", "--model", str(base), "--data", str(pairs), "--name", "one", "--limit", "8",
               "--results", str(tmp_path / "results"), "--set", "train.max_length=256", "--set", "train.batch_size=8",
               "--no-canary"]  # fmt: skip
    assert run(app, [*command, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["step"]["micro_batch_size"] == 8 and planned["step"]["chosen"]
    assert planned["memory"]["fits"] and planned["time"]["seconds"] > 0
    assert run(app, [*command, "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "8 examples: 1 pass of 8; chosen for the available memory" in shown
    assert run(app, command) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("a step: 1 pass of 8 examples;") == 1 and "(train.micro_batch_size=auto)" in said
    manifest = json.loads((tmp_path / "results/one/manifest.json").read_text())
    assert manifest["config"]["settings"]["train"]["micro_batch_size"] == "auto"
    step = manifest["summary"]["step"]
    assert (step["micro_batch_size"], step["passes"], step["gradient_checkpointing"]) == (8, 1, False)
    assert 0 < step["predicted_peak"] < step["room"]["available"]
    (stage,) = manifest["summary"]["stages"]
    assert (stage["micro_batch_size"], stage["gradient_checkpointing"]) == (8, False)
    # Gone on with as it was begun, whatever would be chosen now; refused where there is no memory.
    begun = tmp_path / "results/one/step.json"
    stored = {"micro_batch_size": 8, "gradient_checkpointing": False, "data": manifest["summary"]["data"]["fingerprint"],
              "model": manifest["base"]["fingerprint"]}  # fmt: skip
    assert json.loads(begun.read_text()) == stored
    begun.write_text('{"micro_batch_size": 2, "gradient_checkpointing": false}')
    (tmp_path / "results/one/manifest.json").unlink()
    assert run(app, [*command, "--resume"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "a step: 4 passes of 2 examples;" in said and "(train.micro_batch_size=auto; as the run was begun)" in said
    (tmp_path / "results/one/manifest.json").unlink()
    begun.write_text('{"micro_batch_size": "two", "gradient_checkpointing": false}')
    assert run(app, [*command, "--resume"]) == 2
    assert "micro_batch_size is 'two'" in capsys.readouterr().err
    begun.unlink()
    monkeypatch.setattr(deciding, "memory_there", lambda gpu: 0)
    assert run(app, [*command, "--resume"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "not even one example per forward pass fits into memory" in said and "train.max_length" in said
    assert run(app, [*command, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert not planned["memory"]["fits"] and planned["step"]["micro_batch_size"] == 1 and planned["time"] is None
    assert planned["step"]["gradient_checkpointing"] is True


def test_a_plan_is_for_one_device(base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aligners.training.planning import plan as planning

    monkeypatch.setattr(planning, "this_process", OfTwo)
    with pytest.raises(BadInputError, match="one device, and 2 processes were launched"):
        planning.plan(DPO(), job(base, pairs, tmp_path))
