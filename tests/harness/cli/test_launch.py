"""`harness launch`: the command that it runs, what it refuses, and an alignment in two processes."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.launch import Sharding, launch_command
from harness.core.errors import BadInputError
from tests.commands import run_here
from tests.tiny import tiny_llava, tiny_pairs

ALIGN = ["align", "--method", "dpo", "--model", "m", "--name", "n"]


def test_the_profiles_come_with_the_package() -> None:
    for sharding in Sharding:
        command = launch_command(ALIGN, 8, sharding)
        assert Path(command[command.index("--config_file") + 1]).is_file()
        assert command[command.index("--num_processes") + 1] == "8" and command[-len(ALIGN) :] == ALIGN


def test_several_machines() -> None:
    command = launch_command(ALIGN, 16, machines=2, rank=1, address="10.0.0.1:29500")
    for option, value in (
        ("num_machines", "2"),
        ("machine_rank", "1"),
        ("main_process_ip", "10.0.0.1"),
        ("main_process_port", "29500"),
    ):
        assert command[command.index(f"--{option}") + 1] == value


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (["eval", "--suite", "pope"], {}, "not 'eval'"),
        ([], {}, "only align"),
        (["align", "--method", "dpo", "--model", "m"], {}, "processes need --name"),
        (ALIGN, {"machines": 3}, "8 is not a multiple of --machines 3"),
        (ALIGN, {"machines": 2, "rank": 2, "address": "h:1"}, "2 is not below --machines 2"),
        (ALIGN, {"machines": 2}, "address of machine 0"),
        (ALIGN, {"machines": 2, "address": "host"}, "address of machine 0"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: list[str], options: dict[str, object], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        launch_command(arguments, 8, **options)  # type: ignore[arg-type]


def test_print_shows_the_command_and_runs_nothing() -> None:
    code, out, _ = run_here(["launch", "--processes", "2", "--sharding", "fsdp", "--print", *ALIGN])
    assert code == 0 and shlex.split(out)[-len(ALIGN) :] == ALIGN and "fsdp.yaml" in out


@pytest.mark.parametrize(("given", "expected"), [(None, "1800"), ("60", "60")])
def test_ctrl_c_leaves_the_processes_time_to_save(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch kills them after 30 seconds, unless its variable says otherwise; this torch must know the variable."""
    from torch.distributed.launcher import api

    name = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
    assert f'"{name}"' in inspect.getsource(api)
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    started: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    run_here(["launch", "--processes", "2", *ALIGN])
    [(program, command, environment)] = started
    assert program == sys.executable and command == launch_command(ALIGN, 2)
    assert environment == {**os.environ, name: expected}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_processes_align(tmp_path: Path) -> None:
    base, pairs = tiny_llava(tmp_path / "base"), tiny_pairs(tmp_path / "pairs", 16)
    command = [
        "launch",
        "--processes",
        "2",
        "align",
        "--method",
        "dpo",
        "--model",
        str(base),
        "--data",
        str(pairs),
        "--name",
        "two",
    ]
    for setting in ("max_length=256", "batch_size=8", "learning_rate=1e-3", "lora.rank=4"):
        command += ["--set", f"train.{setting}"]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *command],
        cwd=tmp_path,
        env={**os.environ, "HARNESS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "results" / "two" / "manifest.json").read_text())["summary"]["processes"] == 2
