"""Several processes train as one, by the configurations that are shipped: on one machine, on two, with weights or gradients shared out.

On CPUs, over gloo: `accelerate launch` starts the processes of `MULTI_GPU`, `FSDP` and `DEEPSPEED` whether there are GPUs or not.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch.distributed import distributed_c10d

from aligners.training.processes import any_process, bfloat16_policy, this_process
from aligners.training.reference import ValueStore, fill
from aligners.training.shards import random_states, sharding_of
from aligners.training.strict import StrictTrainer
from harness.cli.launch import launch_command
from harness.core.paths import PACKAGE
from harness.models import export_full
from tests import warm
from tests.aligners.training.test_resume import SHARDED as FILES
from tests.tiny_families import FAMILIES

CONFIGS = PACKAGE / "configs" / "accelerate"
SHARDED = Path(__file__).with_name("sharded_on_cpu.py")
DEEPSPEED = Path(__file__).with_name("deepspeed_on_cpu.py")
SETTINGS = ("learning_rate=3e-3", "adam_epsilon=1e-2", "max_grad_norm=1000", "epochs=2", "batch_size=8", "micro_batch_size=2",
            "max_length=256", "lora.rank=4")  # fmt: skip
"""Adam's usual epsilon hides a gradient's size, and makes a whole step of one that is nothing but rounding; clipping hides it as well."""


HELD_OUT = ("held_out_text", "held_out_image")
"""Margins on held-out pairs in a training's log."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Trained:
    """Alignments of one base on the same pairs, by name."""

    def __init__(self, base: Path, pairs: Path, folder: Path) -> None:
        self.base, self.pairs, self.folder = base, pairs, folder
        self.others = folder / "others.parquet"
        table = pq.read_table(pairs).slice(0, 5)
        asked = [[f"{question} {question}" for question in table["question"].to_pylist()]]
        pq.write_table(table.set_column(table.schema.get_field_index("question"), "question", asked), self.others)

    def start(self, name: str, launch: list[str], method: str, *more: str, **settings: Any) -> warm.Started:
        """Start an alignment by a launcher; the last parts of the command are the alignment's."""
        margins = (f"balance.data={self.others}", "balance.pairs=5", "balance.every=2")
        sets = [f"train.{one}" for one in (*SETTINGS, *margins, *(f"{key}={value}" for key, value in settings.items()))]
        command = ["align", "--method", method, "--model", str(self.base), "--data", str(self.pairs), "--name", name,
                   *(part for one in sets for part in ("--set", one)), *more]  # fmt: skip
        harness = launch == ALONE[0]
        start = warm.start if harness else functools.partial(subprocess.Popen[str], text=True)
        return start(
            command if harness else [*launch, *command],
            cwd=self.folder,
            env={**os.environ, "HARNESS_CACHE": str(self.folder / f"cache-{name}"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def kill(self, name: str, launch: list[str], now: Callable[[], bool], **settings: Any) -> None:
        """Start an alignment and kill all its processes as soon as something is so."""
        running = self.start(name, launch, "mfpo", **settings)
        deadline = time.monotonic() + 300
        while not now():
            assert running.poll() is None and time.monotonic() < deadline, "it could not be killed in time"
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGKILL)
        for child in psutil.process_iter():  # the launcher gives its processes sessions of their own
            with contextlib.suppress(psutil.Error):
                if str(self.folder / f"cache-{name}") == child.environ().get("HARNESS_CACHE"):
                    child.kill()
        running.communicate()

    def align(self, name: str, launches: list[list[str]], method: str = "mfpo", *more: str, **settings: Any) -> None:
        """Run every launcher's command at once, to the end."""
        running = [self.start(name, launch, method, *more, **settings) for launch in launches]
        said = [one.communicate(timeout=500)[0] for one in running]
        assert all(one.returncode == 0 for one in running), "\n".join(said)[-4000:]

    def like_one_process(
        self, name: str, method: str = "mfpo", file: str = "adapter_model.safetensors", **settings: Any
    ) -> None:
        """The run is the one of one process, which is made once for all that are compared with it."""
        alone = f"alone-{method}"
        if not (self.folder / "results" / alone).exists():
            self.align(alone, ALONE, method, **settings)
            assert self.processes(alone) == (1, False)
        self.same(alone, name, file)

    def log(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / "results" / name / "train_log.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def held_out(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / "results" / name / "held_out.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def weights(self, name: str, file: str = "adapter_model.safetensors") -> dict[str, torch.Tensor]:
        return load_file(self.folder / "results" / name / "checkpoint" / file)

    def same(self, run: str, other: str, file: str = "adapter_model.safetensors") -> None:
        """The two took the same steps to the same weights, but for rounding."""
        losses = [line["loss"] for line in self.log(run)]
        assert len(losses) == len(self.log(other)) > 5 and max(losses) - min(losses) > 0.05, "nothing was learnt"
        for left, right in zip(self.log(run), self.log(other), strict=True):
            assert (right["stage"], right["step"]) == (left["stage"], left["step"])
            assert right["loss"] == pytest.approx(left["loss"], abs=1e-5), left["step"]
            assert right["margin"] == pytest.approx(left["margin"], abs=1e-4)
            assert [right.get(key) for key in HELD_OUT] == pytest.approx([left.get(key) for key in HELD_OUT], abs=1e-4)
        assert any(HELD_OUT[0] in line for line in self.log(other)), "no margins were measured"
        rows = [self.held_out(one) for one in (run, other)]
        assert [row["pair"] for row in rows[0]] == [row["pair"] for row in rows[1]] and len(rows[0]) == 5
        for kind in ("text", "image"):
            assert [row[kind] for row in rows[1]] == pytest.approx([row[kind] for row in rows[0]], abs=1e-4)
        left, right = self.weights(run, file), self.weights(other, file)
        assert left.keys() == right.keys()
        for name, value in left.items():
            torch.testing.assert_close(
                right[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )

    def nearly_same(self, run: str, other: str, file: str = "adapter_model.safetensors") -> None:
        """The two took the same steps in bfloat16, whose rounding depends on how the examples are put together."""
        logs = [self.log(name) for name in (run, other)]
        losses = [[row["loss"] for row in log] for log in logs]
        assert max(losses[0]) - min(losses[0]) > 0.05, "nothing was learnt"
        assert losses[1] == pytest.approx(losses[0], abs=1e-3)
        assert [row["margin"] for row in logs[1]] == pytest.approx([row["margin"] for row in logs[0]], abs=3e-3)
        left, right = self.weights(run, file), self.weights(other, file)
        assert {name: value.dtype for name, value in right.items()} == dict.fromkeys(left, torch.float32)
        begun = load_file(self.base / "model.safetensors")
        learnt = [name for name in left if "lora_A" not in name]  # adapters begin with random numbers in A, and 0 in B
        change, difference = (
            torch.cat([(left[name] - start.get(name, 0)).flatten() for name in learnt]).norm()
            for start in (begun, right)
        )
        assert difference < 0.02 * change

    def processes(self, name: str) -> tuple[int, bool]:
        """How many processes there were, and whether each held a share of the weights only, as the manifest says."""
        summary = self.summary(name)
        return summary["processes"], summary["weights_shared_out"]

    def summary(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "results" / name / "manifest.json").read_text())["summary"]
        return found


ALONE = [[sys.executable, "-m", "harness"]]


def launch(config: str, *options: str, program: tuple[str, ...] = ("-m", "harness")) -> list[str]:
    configuration = ["--config_file", str(CONFIGS / config), "--num_processes", "2"]
    return [sys.executable, "-m", "accelerate.commands.launch", *configuration, *options, *program]


def sharded() -> list[str]:
    return launch("fsdp.yaml", "--main_process_port", str(free_port()), program=(str(SHARDED),))


def deepspeed(stage: int = 2) -> list[str]:
    options = ("--main_process_port", str(free_port()), "--zero_stage", str(stage))
    return launch("zero2.yaml", *options, program=(str(DEEPSPEED),))


@pytest.fixture(scope="module")
def trained(base: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(base, pairs, tmp_path_factory.mktemp("trained"))


@pytest.mark.slow
def test_two_processes_train_as_one(trained: Trained) -> None:
    """Each takes as many examples a pass as both have memory for: all of its half of a batch; the one process takes 2."""
    trained.align("ddp", [launch("ddp.yaml", "--main_process_port", str(free_port()))], micro_batch_size="auto")
    assert trained.processes("ddp") == (2, False)
    step = trained.summary("ddp")["step"]
    assert (step["micro_batch_size"], step["passes"], step["chosen"]) == (4, 1, True)
    trained.like_one_process("ddp")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_machines_train_as_one(trained: Trained) -> None:
    """Each by `harness launch`'s own command."""
    address = f"127.0.0.1:{free_port()}"
    named = ["align", "--name", "machines"]
    machines = [launch_command(named, 2, machines=2, rank=rank, address=address)[: -len(named)] for rank in range(2)]
    trained.align("machines", machines)
    assert trained.processes("machines") == (2, False)
    trained.like_one_process("machines")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_processes_that_share_the_weights_out_train_as_one(trained: Trained) -> None:
    """Three stages, each with the one before it as its reference: values are taken of weights that are shared out."""
    trained.align("shared", [sharded()])
    assert trained.processes("shared") == (2, True)
    trained.like_one_process("shared")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("shared_out", ["weights", "gradients"])
def test_what_was_left_at_a_kill_goes_on_as_if_nothing_had_been(shared_out: str, trained: Trained) -> None:
    launcher, name = {"weights": sharded, "gradients": deepspeed}[shared_out], f"killed-{shared_out}"
    stages = trained.folder / "results" / name / "stages"
    trained.kill(name, launcher(), lambda: any(stages.glob("2-*/checkpoint-*/trainer_state.json")), save_steps=2)
    checkpoint = next(path.parent for path in stages.glob("2-*/checkpoint-*/trainer_state.json"))
    kind = "fsdp" if shared_out == "weights" else "zero2"
    assert sharding_of(checkpoint) == kind
    files = {
        re.sub(r"global_step\d+", "global_step4", str(path.relative_to(checkpoint))) for path in checkpoint.rglob("*")
    }
    assert files >= {*FILES[kind], "scheduler.pt"}
    trained.align(name, [launcher()], "mfpo", "--resume", save_steps=2)
    assert trained.processes(name) == (2, shared_out == "weights")
    trained.like_one_process(name)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_layers_that_are_shared_out_are_computed_again_for_the_backward_pass(trained: Trained) -> None:
    trained.align("shared-again", [sharded()], gradient_checkpointing=True)
    assert trained.processes("shared-again") == (2, True)
    trained.like_one_process("shared-again")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_method_that_needs_the_references_distribution_gets_it_of_shared_weights(trained: Trained) -> None:
    trained.align("shared-chip", [sharded()], "chip")
    assert trained.processes("shared-chip") == (2, True)
    trained.like_one_process("shared-chip", "chip")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("family", ["llava-v1.6", "qwen2.5-vl", "smolvlm2"])
def test_every_familys_layers_are_shared_out(family: str, pairs: Path, tmp_path: Path) -> None:
    """Their classes have other names, and their images are encoded in every step."""
    export_full(*FAMILIES[family](), tmp_path / "base")
    trained = Trained(tmp_path / "base", pairs, tmp_path)
    settings = {"max_length": 512, "epochs": 4}
    trained.align("shared", [sharded()], "dpo", **settings)
    assert trained.processes("shared") == (2, True)
    trained.like_one_process("shared", "dpo", **settings)


IN_BFLOAT16 = {"precision": "bfloat16", "epochs": 1}


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", pytest.param("full", marks=pytest.mark.exhaustive)])
def test_processes_that_share_the_weights_out_in_bfloat16_train_as_one(tuning: str, trained: Trained) -> None:
    """Only the model's passes are rounded: not the log-probabilities that it returns, whose sums would be off by tenths."""
    alone, shared = f"alone-bfloat16-{tuning}", f"shared-bfloat16-{tuning}"
    trained.align(alone, ALONE, "dpo", tuning=tuning, **IN_BFLOAT16)
    trained.align(shared, [sharded()], "dpo", tuning=tuning, **IN_BFLOAT16)
    assert trained.processes(shared) == (2, True)
    assert all(trained.summary(name)["bfloat16"] for name in (alone, shared))
    trained.nearly_same(alone, shared, "model.safetensors" if tuning == "full" else "adapter_model.safetensors")


def test_gradients_of_shared_weights_are_summed_in_float32() -> None:
    policy = bfloat16_policy()
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)


ALL_WEIGHTS = {"tuning": "full", "epochs": 1}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_all_weights_that_are_shared_out_train_as_one(trained: Trained) -> None:
    trained.align("shared-full", [sharded()], "dpo", **ALL_WEIGHTS)
    assert trained.processes("shared-full") == (2, True)
    trained.like_one_process("shared-full", "dpo", "model.safetensors", **ALL_WEIGHTS)


@pytest.mark.slow
def test_processes_that_share_gradients_out_by_deepspeed_train_as_one(trained: Trained) -> None:
    """Three stages, each with an engine of its own."""
    trained.align("deepspeed", [deepspeed()])
    summary = trained.summary("deepspeed")
    assert (summary["processes"], summary["deepspeed"], summary["weights_shared_out"]) == (2, True, False)
    trained.like_one_process("deepspeed")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("stage", [1, 2])
def test_all_weights_by_deepspeed_train_as_one(stage: int, trained: Trained) -> None:
    trained.align(f"deepspeed-full-{stage}", [deepspeed(stage)], "dpo", **ALL_WEIGHTS)
    trained.like_one_process(f"deepspeed-full-{stage}", "dpo", "model.safetensors", **ALL_WEIGHTS)


@pytest.mark.slow
def test_what_accelerate_would_not_do_is_not_done_silently(trained: Trained) -> None:
    command = [
        "align",
        "--method",
        "dpo",
        "--model",
        str(trained.base),
        "--data",
        str(trained.pairs),
        "--name",
        "refused",
    ]
    environment = {**os.environ, "HARNESS_CACHE": str(trained.folder / "cache"), "OMP_NUM_THREADS": "1"}

    def said(**more: str) -> str:
        done = warm.run([*command, "--overwrite"], cwd=trained.folder, env=environment | more)
        assert done.returncode == 2
        return done.stderr

    assert "sharded over GPUs only" in said(ACCELERATE_USE_FSDP="true")
    assert "started by accelerate" in said(ACCELERATE_USE_DEEPSPEED="true")


def patience(rank: int, port: int, answers: Any) -> None:
    """In a process of its own: how long it waits for the others, in a barrier such as that around the preparation of data."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))
    PartialState._reset_state()  # this process is a copy of one whose state may be set already
    process = this_process()
    process.wait_for_everyone()
    backend = distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
    answers.put((process.num_processes, backend.options._timeout))


def test_processes_wait_for_days_while_the_first_one_prepares_the_data() -> None:
    """torch's defaults are 10 minutes for NCCL, and 30 for gloo."""
    forking, port = multiprocessing.get_context("fork"), free_port()
    answers: Any = forking.Queue()
    processes = [forking.Process(target=patience, args=(rank, port, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=120) for _ in processes] == [(2, timedelta(days=7))] * 2
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0


def saved_by(rank: int, port: int, folder: Path, answers: Any) -> None:
    """In a process of its own: the random states that are there when it has saved its own; the second one is slow."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))
    PartialState._reset_state()  # this process is a copy of one whose state may be set already
    trainer: Any = object.__new__(StrictTrainer)
    trainer.session = SimpleNamespace(process=this_process())
    trainer.args = SimpleNamespace(world_size=2, process_index=rank)
    time.sleep(rank)
    trainer._save_rng_state(str(folder))
    answers.put(random_states(folder))


def test_a_checkpoint_is_complete_when_every_process_has_saved(tmp_path: Path) -> None:
    """The first process writes the file that says so next."""
    forking, port = multiprocessing.get_context("fork"), free_port()
    answers: Any = forking.Queue()
    processes = [forking.Process(target=saved_by, args=(rank, port, tmp_path, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=120) for _ in processes] == [[0, 1]] * 2
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0


def interrupted_in(rank: int, port: int, answers: Any) -> None:
    """In a process of its own: what the processes agree on where only the second one was interrupted, and where none was."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))
    PartialState._reset_state()  # this process is a copy of one whose state may be set already
    process = this_process()
    answers.put([any_process(rank == 1, process), any_process(False, process)])


def test_processes_agree_on_the_step_after_which_they_stop() -> None:
    forking, port = multiprocessing.get_context("fork"), free_port()
    answers: Any = forking.Queue()
    processes = [forking.Process(target=interrupted_in, args=(rank, port, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=120) for _ in processes] == [[True, False]] * 2
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0


class Blocks:
    """Examples and keys as `fill` takes them, and how often a process computed."""

    def __init__(self, count: int) -> None:
        self.blocks = [[SimpleNamespace(id=str(number))] for number in range(count)]
        self.keys = {str(number): {("original", "chosen"): f"{number:032}".encode()} for number in range(count)}
        self.calls: list[str] = []

    def compute(self, block: Any) -> Any:
        self.calls.append(block[0].id)
        return [{("original", "chosen"): np.full(3, float(block[0].id), np.float32)}]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_processes_in_step_compute_equally_often(count: int, tmp_path: Path) -> None:
    calls, stored = [], {}
    for rank in range(3):
        session, store = Blocks(count), ValueStore(tmp_path, {"count": count}, keep=False)
        fill(store, session.blocks, session.keys, session.compute, share=(rank, 3), in_step=True)
        calls.append(len(session.calls))
        stored |= {key: store[key] for keys in session.keys.values() for key in keys.values() if key in store}
    assert calls == [-(-count // 3)] * 3
    assert len(stored) == count and all(value[0] == int(key) for key, value in stored.items())


class Pairs(Blocks):
    """Blocks of one pair of letters each, whose two values other blocks have, too; a process's rounding is its own."""

    def __init__(self, pairs: Sequence[str], rounding: float) -> None:
        super().__init__(len(pairs))
        self.rounding = rounding
        chosen, rejected = ("original", "chosen"), ("original", "rejected")
        self.keys = {
            str(number): {chosen: pair[0].ljust(32).encode(), rejected: pair[1].ljust(32).encode()}
            for number, pair in enumerate(pairs)
        }

    def compute(self, block: Any) -> Any:
        self.calls.append(block[0].id)
        return [{pair: np.full(3, self.rounding, np.float32) for pair in self.keys[block[0].id]}]


@pytest.mark.parametrize("in_step", [False, True])
@pytest.mark.parametrize(
    ("pairs", "computed"),
    [
        (["AB", "CD", "BA", "EF", "GH", "IJ"], ["035", "14"]),
        (["AB", "AC", "BC", "DE", "DF", "EF", "GH"], ["036", "14"]),
    ],
)
def test_processes_agree_on_blocks_with_common_values(
    pairs: list[str], computed: list[str], in_step: bool, tmp_path: Path
) -> None:
    """A block whose values all occur in earlier ones is computed by nobody, and shifts no other block to another process."""
    processes = [(Pairs(pairs, 1 + rank / 100), ValueStore(tmp_path, {})) for rank in range(2)]
    for rank, (blocks, store) in enumerate(processes):
        assert fill(store, blocks.blocks, blocks.keys, blocks.compute, share=(rank, 2), in_step=in_step) == 5
    repeated = str(len(pairs) - 1) if in_step else ""
    assert ["".join(blocks.calls) for blocks, _ in processes] == [computed[0], computed[1] + repeated]
    wanted = {key for keys in processes[0][0].keys.values() for key in keys.values()}
    for _, store in processes:
        store.load(wanted)
    for key in wanted:
        values = [store[key] for _, store in processes]
        assert np.array_equal(*values), "a value that both processes computed is the same to both"
