"""`--processes`: every command has a process of its own, which is forked from one that has imported the heavy libraries."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from harness.experiments import warm
from harness.experiments.warm import WarmProcess
from harness.experiments.workers import Processes


@pytest.mark.slow
def test_commands_run_in_the_working_directory_with_their_output_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other in one slot; a failing one is its own failure; the libraries are imported once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch.py").write_text("raise RuntimeError('the working directory hides a library')")
    workers = Processes(1)
    started = time.perf_counter()
    first = workers.submit(["list", "methods"], Path("first.log"))
    assert first.result() is None
    imported = time.perf_counter() - started
    assert "mfpo" in Path("first.log").read_text()
    wrong = workers.submit(["leaderboard", "not-there", "--metric", "chair_s"], Path("wrong.log")).result()
    assert wrong is not None and wrong.startswith("exit code 2: error: ") and "not-there" in wrong
    unknown = workers.submit(["nonsense"], Path("unknown.log")).result()
    assert unknown is not None and "see `harness --help`" in unknown
    started = time.perf_counter()
    assert workers.submit(["list", "methods"], Path("again.log")).result() is None
    assert time.perf_counter() - started < imported / 2
    assert Path("again.log").read_text() == Path("first.log").read_text()
    workers.close()


def test_a_process_that_is_gone_is_a_failure_with_a_log(tmp_path: Path) -> None:
    process = WarmProcess(None)
    os.kill(process._process.pid, signal.SIGKILL)
    assert process.run(["list", "methods"], tmp_path / "log", tmp_path) == -9
    assert (tmp_path / "log").read_text() == "" and not process.alive
    process.close()


@pytest.mark.slow
def test_a_command_ends_with_the_process_that_ordered_it(tmp_path: Path) -> None:
    """Otherwise it would hold the lock of its run, and the same experiment, run again, would fail there."""
    code = """
import sys, pathlib
from harness.experiments.warm import WarmProcess
here = pathlib.Path.cwd()
WarmProcess(1).run(["view", "--port", "0"], here / "log", here)
"""
    (tmp_path / "results").mkdir()
    ordering = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    log, deadline = tmp_path / "log", time.monotonic() + 120
    while "http://" not in (log.read_text() if log.exists() else "") and time.monotonic() < deadline:
        time.sleep(0.05)
    server = psutil.Process(ordering.pid).children(recursive=True)
    assert len(server) == 2, "the process that forks, and the command"
    ordering.kill()
    ordering.wait()
    _, alive = psutil.wait_procs(server, timeout=20)
    assert not alive


def test_a_command_that_was_not_forked_is_killed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr("sys.stdin", os.fdopen(reading))
    command = subprocess.Popen(["sleep", "600"])
    os.close(writing)
    with pytest.raises(SystemExit):
        warm._code_of(command.pid, command.poll)
    assert command.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(("given", "expected"), [(None, "3"), ("7", "7")])
def test_each_gets_its_share_of_the_cores_unless_the_user_says_otherwise(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    process = WarmProcess(3)
    source = Path(f"/proc/{process._process.pid}/environ")
    deadline = time.monotonic() + 60
    while not (environment := source.read_bytes().split(b"\0"))[0] and time.monotonic() < deadline:
        time.sleep(0.001)  # empty while the system still starts the program
    os.kill(process._process.pid, signal.SIGKILL)
    process.close()
    assert f"OMP_NUM_THREADS={expected}".encode() in environment


@pytest.mark.slow
def test_with_a_gpu_no_command_is_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that asks for the GPU while it is imported leaves a process whose copies cannot use it."""
    monkeypatch.setattr(warm, "_has_gpu", lambda: True)
    monkeypatch.setattr(warm, "_HEAVY", ())
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a command was forked"))
    orders = [{"command": ["list", "methods"], "log": str(tmp_path / "log"), "folder": str(tmp_path)},
              {"command": ["nonsense"], "log": str(tmp_path / "wrong"), "folder": str(tmp_path)}]  # fmt: skip
    answers = tmp_path / "answers"
    with answers.open("w") as stream:
        monkeypatch.setattr(warm, "_answers", lambda: stream)
        reading, writing = os.pipe()
        os.write(writing, f"{json.dumps(orders[0])}\n".encode())
        monkeypatch.setattr("sys.stdin", os.fdopen(reading))
        serving = threading.Thread(target=warm._serve)
        serving.start()
        while answers.read_text() != "0\n":
            time.sleep(0.02)
        os.write(writing, f"{json.dumps(orders[1])}\n".encode())
        while answers.read_text() != "0\n2\n":
            time.sleep(0.02)
        os.close(writing)
        serving.join(60)
    assert answers.read_text().split() == ["0", "2"]
    assert "mfpo" in (tmp_path / "log").read_text() and "nonsense" in (tmp_path / "wrong").read_text()
