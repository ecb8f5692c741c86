"""`--resume` takes a checkpoint as it was written, or says what is wrong with it: nothing is loaded in part, and nothing is left out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from aligners.dpo import DPO
from aligners.mfpo import MFPO
from aligners.training import run as training
from aligners.training.checkpoint import FINISHED, load_finished, save_finished
from aligners.training.inputs import check_inputs, inputs_of
from aligners.training.interrupt import stop_on_interrupt
from aligners.training.job import AlignJob
from aligners.training.memory.step import STEP
from aligners.training.shards import check_shards, sharding_of
from harness.core import registry
from harness.core.config import TrainSettings, merged
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import write_json
from harness.records.training_files import StageRow
from tests.aligners.training.test_cost_only import KilledError, killed_at

SETTINGS: dict[str, Any] = {
    "learning_rate": 5e-3,
    "batch_size": 8,
    "micro_batch_size": 8,
    "max_length": 256,
    "adam_epsilon": 1e-3,
    "save_steps": 1,
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
}


def job(base: Path, pairs: Path, output: Path, resume: bool = False, **more: Any) -> AlignJob:
    output.mkdir(parents=True, exist_ok=True)
    train = TrainSettings.model_validate(merged(SETTINGS, more))
    return AlignJob(
        str(base), str(pairs), output, train, output.parent / "cache", limit=24, resume=resume, canary=False
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    [file] = (folder / "checkpoint").glob("*.safetensors")
    return load_file(file)


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_what_was_trained_is_gone_on_with(tuning: str, base: Path, pairs: Path, tmp_path: Path) -> None:
    """Also where all weights are trained: transformers saves them under other names than those by which it resumes."""
    slow = {"tuning": tuning, **({"learning_rate": 1e-3} if tuning == "full" else {})}
    training.train(DPO(), job(base, pairs, tmp_path / "whole", **slow))
    with pytest.raises(KilledError):
        training.train(killed_at(DPO, 3), job(base, pairs, tmp_path / "killed", **slow))
    training.train(DPO(), job(base, pairs, tmp_path / "killed", resume=True, **slow))
    expected, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    before = load_file(base / "model.safetensors")
    assert resumed.keys() == expected.keys()
    moved = max(float((value - before.get(name, 0 * value)).abs().max()) for name, value in expected.items())
    assert moved > 1e-3, "nothing was learned"
    for name, value in expected.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-5, atol=1e-7)


def changed(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Spoils a file of tensors."""

    def spoil(path: Path) -> None:
        values = load_file(path)
        change(values)
        save_file(values, path, metadata={"format": "pt"})

    return spoil


def first(values: dict[str, torch.Tensor]) -> str:
    return min(values)


TENSORS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (changed(lambda values: values.pop(first(values))), "1 of 56 tensors of the model are missing"),
    "nobody's": (changed(lambda values: values.update(more=torch.zeros(1))), "1 tensors do not belong"),
    "another shape": (
        changed(lambda values: values.update({first(values): values[first(values)][:1].clone()})),
        "in the model",
    ),
    "another type": (
        changed(lambda values: values.update({first(values): values[first(values)].bfloat16()})),
        "bfloat16, and",
    ),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "its header says"),
    "empty": (lambda path: path.write_bytes(b""), "truncated or not in safetensors format"),
    "gone": (lambda path: path.unlink(), "is missing in a checkpoint"),
}


@pytest.fixture(scope="module")
def killed(base: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one stage that ended in its third step."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(KilledError):
        training.train(killed_at(DPO, 3), job(base, pairs, folder / "run"))
    return folder / "run"


def refused(base: Path, pairs: Path, killed: Path, output: Path, spoil: Callable[[Path], Any], **more: Any) -> str:
    """What is said where a copy of the run is gone on with after its checkpoint was spoiled; the copy stays as it is."""
    shutil.copytree(killed, output)
    checkpoint = output / "stages" / "1-all" / "checkpoint-2"
    spoil(checkpoint)
    before = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    with pytest.raises(BadInputError) as caught:
        training.train(DPO(), job(base, pairs, output, resume=True, **more))
    assert caught.value.exit_code == 2 and "--overwrite" in str(caught.value.remedy)
    assert before == {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    assert not (output / "checkpoint").exists()
    return caught.value.problem


@pytest.mark.slow
@pytest.mark.parametrize("kind", TENSORS)
def test_spoiled_weights_are_refused(kind: str, base: Path, pairs: Path, killed: Path, tmp_path: Path) -> None:
    spoil, said = TENSORS[kind]
    problem = refused(base, pairs, killed, tmp_path / "run", lambda folder: spoil(folder / "adapter_model.safetensors"))
    assert said in problem


def optimizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Spoils the optimizer's state."""

    def spoil(folder: Path) -> None:
        state = torch.load(folder / "optimizer.pt", weights_only=True)
        change(state)
        torch.save(state, folder / "optimizer.pt")

    return spoil


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-200])  # type: ignore[return-value]


STATES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no optimizer": (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "no schedule": (lambda folder: (folder / "scheduler.pt").unlink(), "scheduler.pt is missing"),
    "no random numbers": (lambda folder: (folder / "rng_state.pth").unlink(), "rng_state.pth is missing"),
    "optimizer cut off": (cut("optimizer.pt"), "optimizer.pt is damaged"),
    "schedule cut off": (cut("scheduler.pt"), "scheduler.pt is damaged"),
    "random numbers cut off": (cut("rng_state.pth"), "rng_state.pth is damaged"),
    "a moment is missing": (optimizer(lambda state: state["state"].pop(3)), "of weight 3 is missing"),
    "a moment of another shape": (
        optimizer(lambda state: state["state"][3].update(exp_avg=torch.zeros(2, 2))),
        "of another shape",
    ),
    "fewer weights": (
        optimizer(lambda state: state["param_groups"][0]["params"].pop()),
        "weights,",
    ),
    "another sharding": (
        lambda folder: (folder / "optimizer.pt").rename(folder / "optimizer_0"),
        "begun with --sharding fsdp, and its checkpoint cannot be resumed with --sharding none",
    ),
    "a process's random numbers": (
        lambda folder: (folder / "rng_state.pth").rename(folder / "rng_state_0.pth"),
        "rng_state_1.pth is missing",
    ),
    "another step": (
        lambda folder: (folder / "trainer_state.json").write_text('{"global_step": 1}'),
        "is of another step",
    ),
}


SHARDED = {
    "fsdp": ("pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata", "rng_state_0.pth", "rng_state_1.pth"),
    "zero2": (
        "latest",
        "global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "global_step4/zero_pp_rank_1_mp_rank_00_optim_states.pt",
        "rng_state_0.pth",
        "rng_state_1.pth",
    ),
    "none": ("optimizer.pt", "rng_state_0.pth", "rng_state_1.pth"),
}
"""Files in a checkpoint of two processes. `test_processes.py` compares them with those of real runs."""
VARIABLES = {"fsdp": "ACCELERATE_USE_FSDP", "zero2": "ACCELERATE_USE_DEEPSPEED"}


@pytest.mark.parametrize(
    ("begun", "now", "lost", "processes", "said"),
    [
        *((kind, kind, "", 2, "") for kind in SHARDED),
        (
            "none",
            "fsdp",
            "",
            2,
            "begun with --sharding none, and its checkpoint cannot be resumed with --sharding fsdp",
        ),
        ("zero2", "none", "", 1, "begun with --sharding zero2, and its"),
        ("fsdp", "zero2", "", 2, "begun with --sharding fsdp, and its"),
        ("fsdp", "fsdp", "optimizer_0/.metadata", 2, "the optimizer's state"),
        ("fsdp", "fsdp", "pytorch_model_fsdp_0/.metadata", 2, "the weights"),
        (
            "zero2",
            "zero2",
            "global_step4/zero_pp_rank_1_mp_rank_00_optim_states.pt",
            2,
            "of 1 processes, and there are 2",
        ),
        ("zero2", "zero2", "", 4, "of 2 processes, and there are 4"),
        ("none", "none", "rng_state_1.pth", 2, "rng_state_1.pth is missing"),
        ("fsdp", "fsdp", "rng_state_0.pth", 2, "rng_state_0.pth is missing"),
    ],
)
def test_what_a_process_saved_and_is_missing_is_refused(
    begun: str, now: str, lost: str, processes: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, variable in VARIABLES.items():
        monkeypatch.setenv(variable, str(kind == now).lower())
    for file in SHARDED[begun]:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        if file != lost:
            (tmp_path / file).write_bytes(b"state")
    assert sharding_of(tmp_path) == begun
    if not said:
        check_shards(tmp_path, processes)
        return
    with pytest.raises(BadInputError) as caught:
        check_shards(tmp_path, processes)
    assert said in caught.value.problem and "--overwrite" in str(caught.value.remedy)


@pytest.mark.parametrize(("processes", "said"), [(2, False), (4, True), (1, True)])
def test_another_number_of_processes_is_resumed_and_said(
    processes: int, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for file in SHARDED["none"]:
        (tmp_path / file).write_bytes(b"state")
    check_shards(tmp_path, processes)
    assert (f"random numbers of 2 processes, and there are {processes}" in caplog.text) == said


@pytest.mark.slow
@pytest.mark.parametrize("kind", STATES)
def test_a_spoiled_state_is_refused(kind: str, base: Path, pairs: Path, killed: Path, tmp_path: Path) -> None:
    spoil, said = STATES[kind]
    assert said in refused(base, pairs, killed, tmp_path / "run", spoil)


@pytest.mark.slow
def test_other_contents_behind_the_same_names_are_refused(
    base: Path, pairs: Path, killed: Path, tmp_path: Path
) -> None:
    """The order of examples is a permutation of the present ones: some would be trained on twice, others never."""
    table = pq.read_table(pairs)
    longer = [f"{question} Why?" for question in table["question"].to_pylist()]
    pq.write_table(
        table.set_column(table.schema.get_field_index("question"), "question", [longer]), tmp_path / "d.parquet"
    )
    said = refused(base, tmp_path / "d.parquet", killed, tmp_path / "data", lambda folder: None)
    assert "the preference data" in said and "weights" not in said
    shutil.copytree(base, tmp_path / "base")
    changed(lambda values: values[first(values)].mul_(2))(tmp_path / "base" / "model.safetensors")
    said = refused(tmp_path / "base", pairs, killed, tmp_path / "model", lambda folder: None)
    assert "the weights of the starting model" in said and "data" not in said


PLUGIN = """
from aligners.dpo import DPO

class Mine(DPO):
    name, summary, source = "mine", "mine", "this file"
"""


def test_an_edited_plugin_is_refused_and_a_run_of_an_earlier_version_is_not(
    base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    file, resumed = tmp_path / "mine.py", job(base, pairs, tmp_path / "run", resume=True)
    file.write_text(PLUGIN)
    inputs = inputs_of(registry.load("aligners", f"{file}:Mine")(), resumed, "of the data")
    step = {"micro_batch_size": 8, "gradient_checkpointing": False}
    write_json(tmp_path / "run" / STEP, {**step, **inputs})
    check_inputs(DPO(), resumed, inputs)
    file.write_text(
        PLUGIN + "\n    def loss(self, policy, reference):\n        return super().loss(reference, policy)\n"
    )
    edited = registry.load("aligners", f"{file}:Mine")()
    with pytest.raises(BadInputError, match="changed since: the code of the method 'mine'") as caught:
        check_inputs(edited, resumed, inputs_of(edited, resumed, "of the data"))
    assert caught.value.exit_code == 2 and "--overwrite" in str(caught.value.remedy)
    check_inputs(edited, job(base, pairs, tmp_path / "run"), {})  # not resumed
    write_json(tmp_path / "run" / STEP, step)
    check_inputs(edited, resumed, inputs_of(edited, resumed, "of the data"))


def test_all_weights_under_other_names_are_refused(base: Path, pairs: Path, tmp_path: Path) -> None:
    """As versions before this one left them, whose runs went on from the base model without a word."""
    full = {"tuning": "full", "learning_rate": 1e-3}
    with pytest.raises(KilledError):
        training.train(killed_at(DPO, 3), job(base, pairs, tmp_path / "killed", **full))

    def renamed(folder: Path) -> None:
        values = load_file(folder / "model.safetensors")
        save_file({name.removeprefix("model."): value for name, value in values.items()}, folder / "model.safetensors")

    said = refused(base, pairs, tmp_path / "killed", tmp_path / "run", renamed, **full)
    assert "tensors of the model are missing" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["missing", "another shape", "truncated"])
def test_a_finished_stage_that_was_spoiled_is_refused(kind: str, base: Path, pairs: Path, tmp_path: Path) -> None:
    """A tensor of another shape would be stretched to fit."""
    method = MFPO(MFPO.Settings.model_validate({"stages": {"count": 2}}))
    short = killed_at(MFPO, 3)
    short.settings = method.settings
    with pytest.raises(KilledError):
        training.train(short, job(base, pairs, tmp_path / "run"))
    TENSORS[kind][0](tmp_path / "run" / "stages" / "1-easy" / "finished.safetensors")
    with pytest.raises(BadInputError) as caught:
        training.train(method, job(base, pairs, tmp_path / "run", resume=True))
    assert "finished.safetensors" in str(caught.value.where) and "--overwrite" in str(caught.value.remedy)


@pytest.mark.slow
def test_ctrl_c_in_a_stages_last_step_stops_before_the_next_stage(
    base: Path, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The stage is finished and saved. `--resume` goes on with the next one, and removes what a kill left of the first one."""

    def press(row: Mapping[str, Any]) -> None:
        if (row["stage"], row["step"]) == ("easy", 2):
            os.kill(os.getpid(), signal.SIGINT)

    method = MFPO(MFPO.Settings.model_validate({"stages": {"count": 2}}))
    order, easy = job(base, pairs, tmp_path / "run"), tmp_path / "run" / "stages" / "1-easy"
    caplog.set_level("INFO")
    with pytest.raises(HarnessError, match="interrupted after stage easy; the training progress is kept") as caught:
        training.train(method, replace(order, on_step=press))
    assert caught.value.exit_code == 1 and "--resume" in str(caught.value.remedy)
    assert "finishing this step and saving; Ctrl-C again stops at once" in caplog.messages
    assert [path.name for path in easy.iterdir() if path.name != "checkpoint"] == [FINISHED]
    assert len(list(easy.parent.iterdir())) == 1, "the second stage was begun"

    (easy / "checkpoint-1").mkdir()
    (easy / "checkpoint-1" / "optimizer.pt").write_bytes(bytes(1000))
    result = training.train(method, replace(order, resume=True))
    assert [(stage.stage, stage.steps) for stage in result.summary.stages] == [("easy", 2), ("hard", 2)]
    assert not (easy / "checkpoint-1").exists() and (easy / FINISHED).exists()


def test_the_second_ctrl_c_stops_at_once() -> None:
    """The first one of this process, where another process has been interrupted already."""
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt() as asked_to_stop:
        asked_to_stop.set()  # as after a step at whose end another process was asked to stop
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:  # which would end pytest
            pytest.fail("the first one has stopped it")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def adapter(dtype: torch.dtype) -> torch.nn.Module:
    """A weight that is trained, of values that bfloat16 has."""
    model = torch.nn.Linear(4, 4, bias=False, dtype=dtype)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, 16).view(4, 4).bfloat16())
    return model


def test_weights_that_deepspeed_made_bfloat16_are_loaded_in_float32(tmp_path: Path) -> None:
    """Also from a file that has them in bfloat16, as earlier versions wrote it; other types are refused."""
    summary = StageRow(stage="easy", steps=7)
    trained, (new, old, strange) = adapter(torch.bfloat16), (tmp_path / name for name in ("new", "old", "strange"))
    save_finished(trained, new, True, summary)
    assert load_file(new / FINISHED)["weight"].dtype == torch.float32
    for folder, dtype in ((old, torch.bfloat16), (strange, torch.float16)):
        folder.mkdir()
        header = {"summary": json.dumps(summary.written())}
        save_file({"weight": trained.weight.detach().to(dtype)}, folder / FINISHED, metadata=header)
    for folder in (new, old):
        model = torch.nn.Linear(4, 4, bias=False)
        assert load_finished(model, folder) == summary
        assert torch.equal(model.weight, trained.weight.float())
    with pytest.raises(BadInputError, match="float16, and") as caught:
        load_finished(torch.nn.Linear(4, 4, bias=False), strange)
    assert caught.value.exit_code == 2 and "--overwrite" in str(caught.value.remedy)


@pytest.mark.slow
@pytest.mark.claims("train.save_steps")
def test_a_changed_interval_of_checkpoints_holds_from_the_next_step(base: Path, pairs: Path, tmp_path: Path) -> None:
    """Checkpoints 1, 2; then 3, and not 4, which the first interval would have."""

    def kept() -> list[str]:
        return [path.name for path in (tmp_path / "run" / "stages" / "1-all").glob("checkpoint-*")]

    with pytest.raises(KilledError):
        training.train(killed_at(DPO, 3), job(base, pairs, tmp_path / "run", epochs=2))
    assert kept() == ["checkpoint-2"]
    with pytest.raises(KilledError):
        training.train(killed_at(DPO, 3), job(base, pairs, tmp_path / "run", resume=True, epochs=2, save_steps=3))
    assert kept() == ["checkpoint-3"]
