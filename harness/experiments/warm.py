"""A process that has imported the heavy libraries, and forks to run each command of an experiment.

Importing torch, transformers and peft takes longer than many steps on a small model. Every command still gets a process of its own, which
ends with it. Orders come as lines of JSON on standard input; for each the process answers with a line that has the exit code. It ends when
its input does, so also when the process that started it is killed, and kills a running command: it would hold the lock of what the same
experiment, run again, continues.

With a GPU no command is forked, because CUDA does not work in a copy of a process in which a library has asked for it, as bitsandbytes does
when it is imported. Commands then import everything themselves.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

_TICK = 0.02
"""Seconds between two looks at a running command."""
_HEAVY = ("torch", "transformers", "peft", "harness.alignment.align", "harness.evaluation.evaluate")


class WarmProcess:
    """Runs one command at a time."""

    def __init__(self, threads: int | None) -> None:
        """Start the process.

        Args:
            threads: for its computations; None: what the libraries choose.
        """
        environment = dict(os.environ)
        if threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "harness.experiments.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what libraries say when they are imported; a command's own output is in its log
            text=True,
            env=environment,
        )

    def run(self, command: Sequence[str], log: Path, folder: Path) -> int:
        """Run a command with all its output in a file, in a working directory; returns its exit code, -9 if the process is gone."""
        assert self._process.stdin is not None and self._process.stdout is not None
        log.write_bytes(b"")
        order = {"command": list(command), "log": str(log.resolve()), "folder": str(folder.resolve())}
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer.strip():
            return int(answer)
        self._process.kill()  # its pipes close before the system counts it as gone; `alive` must not say otherwise until then
        self._process.wait()
        return -9

    @property
    def alive(self) -> bool:
        """Whether it can take a command."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process, when its command has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def _serve() -> None:
    answers = _answers()
    for name in _HEAVY:
        with contextlib.suppress(ImportError):  # a command that needs it says so
            importlib.import_module(name)
    run = _afresh if _has_gpu() else _forked
    for line in sys.stdin:
        answers.write(f"{run(json.loads(line))}\n")
        answers.flush()


def _answers() -> IO[str]:
    """Standard output; what an import prints to it is no answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _forked(order: dict[str, object]) -> int:
    child = os.fork()
    if child == 0:
        _carry_out(order)

    def code() -> int | None:
        ended, status = os.waitpid(child, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if ended else None

    return _code_of(child, code)


def _afresh(order: dict[str, object]) -> int:
    with Path(str(order["log"])).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "harness", *map(str, order["command"])],  # type: ignore[call-overload]
            cwd=str(order["folder"]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        return _code_of(process.pid, process.poll)


def _code_of(process: int, code: Callable[[], int | None]) -> int:
    """The exit code of a command, as soon as it has one. The next order comes only after it, so an input that has something before has
    ended."""
    while (ended := code()) is None:
        if select.select([sys.stdin], [], [], _TICK)[0]:
            os.kill(process, signal.SIGKILL)
            sys.exit()
    return ended


def _carry_out(order: dict[str, object]) -> None:
    """In the forked process: the command, and the end of the process."""
    os.chdir(str(order["folder"]))
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.modules["__main__"].__package__ = ""  # click would name this module in its usage
    sys.argv = ["harness", *map(str, order["command"])]  # type: ignore[call-overload]
    code = 1
    try:
        runpy.run_module("harness", run_name="__main__", alter_sys=False)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
