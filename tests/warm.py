"""`harness` commands in processes of their own that need not import torch and transformers first, which takes longer than most commands.

A process that has imported the libraries, but no module of ours beyond `harness` itself, waits for commands. For each it makes a copy of
itself (`fork`), which takes over the command's folder, environment, streams and arguments, and then does what `python -m harness` does. The
imports of a process that a person starts are tested with `afresh`, in `tests/harness/cli/test_fresh_processes.py` among others.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

LIBRARIES = ("torch", "pandas", "pyarrow.parquet", "datasets", "accelerate", "peft", "transformers")
CLASSES = ("LlavaForConditionalGeneration", "LlavaProcessor", "AutoModelForImageTextToText", "AutoProcessor", "Trainer")
READ_AT_IMPORT = (
    "HF_",
    "HUGGING",
    "TRANSFORMERS_",
    "OMP_",
    "MKL_",
    "PYTHONPATH",
    "PYTHONSAFEPATH",
    "VLLM_USE",
    "VLLM_PLUGINS",
)
"""Beginnings of the names of variables that the libraries read while they are imported: with other values it takes another process."""


class Command:
    """A command that runs: a part of what `subprocess.Popen` offers."""

    def __init__(self, words: list[str], connection: socket.socket, streams: list[IO[bytes] | None]) -> None:
        self.args, self.returncode = words, None  # type: list[str], int | None
        self._connection, self._streams = connection, streams
        self.pid = int(self._line())

    def _line(self) -> str:
        said = b""
        while not said.endswith(b"\n"):
            part = self._connection.recv(64)
            if not part:
                raise RuntimeError("the process that starts commands is gone")
            said += part
        return said.decode()

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = int(self._line())
            self._connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, as soon as it has ended."""
        if self.returncode is None and not select.select([self._connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to the streams that were asked for, and then its end."""
        said = {stream.fileno(): b"" for stream in self._streams if stream}
        order, open_ones = list(said), set(said)
        while open_ones:
            ready: list[int] = select.select(list(open_ones), [], [], timeout)[0]
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            for number in ready:
                part = os.read(number, 1 << 16)
                said[number] += part
                if not part:
                    open_ones.remove(number)
        texts = iter([said[number].decode().replace("\r\n", "\n") for number in order])
        out, err = (next(texts) if stream else "" for stream in self._streams)
        for stream in self._streams:
            if stream:
                stream.close()
        self._streams = [None, None]
        self.wait(timeout)
        return out, err

    def send_signal(self, number: int) -> None:
        """As `kill` does."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)


Started = Command | subprocess.Popen[str]


class Starter:
    """The process that imports the libraries with these variables, and the socket over which it takes commands."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.imported_with = _read_at_import(environment)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", __file__, str(theirs.fileno())]
        with theirs:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
            )
        self.socket = ours


_BEFORE_THE_TESTS = dict(os.environ)


@functools.cache
def _starter() -> Starter:
    """The one of this process of tests."""
    return Starter(_BEFORE_THE_TESTS)


def _read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT)}


def start(
    arguments: list[str],
    *,
    cwd: Path | str | None = None,
    env: dict[str, str] | None = None,
    stdout: Any = None,
    stderr: Any = None,
    stdin: Any = subprocess.DEVNULL,
    start_new_session: bool = False,
    afresh: bool = False,
    starter: Starter | None = None,
) -> Started:
    """Start `python -m harness ARGUMENTS`; streams are as for `subprocess.Popen`. `afresh`: in a process that imports everything."""
    environment = dict(os.environ if env is None else env)
    starter = starter or _starter()
    if afresh or _read_at_import(environment) != starter.imported_with:
        command = [sys.executable, "-m", "harness", *arguments]
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdout=stdout,
            stderr=stderr,
            stdin=stdin,
            start_new_session=start_new_session,
            text=True,
        )
    order = {
        "arguments": arguments,
        "cwd": str(cwd or Path.cwd()),
        "environment": environment,
        "session": start_new_session,
    }
    with contextlib.ExitStack() as stack:
        given: list[int] = []
        kept: list[IO[bytes] | None] = []
        for wanted, usual in ((stdout, 1), (stderr, 2)):
            stream: IO[bytes] | None = None
            if wanted == subprocess.PIPE:
                reading, writing = os.pipe()
                stack.callback(os.close, writing)
                stream = os.fdopen(reading, "rb", buffering=0)
            elif wanted == subprocess.STDOUT:
                writing = given[0]
            elif wanted == subprocess.DEVNULL:
                writing = os.open(os.devnull, os.O_WRONLY)
                stack.callback(os.close, writing)
            else:
                writing = usual if wanted is None else wanted.fileno()
            given.append(writing)
            kept.append(stream)
        ours, theirs = socket.socketpair()
        stack.callback(theirs.close)
        if stdin == subprocess.DEVNULL:
            stack.enter_context(contextlib.closing(stdin := Path(os.devnull).open("rb")))  # noqa: SIM115
        socket.send_fds(starter.socket, [b"x"], [*given, stdin.fileno(), theirs.fileno()])
        ours.sendall(json.dumps(order).encode() + b"\n")
        return Command(["harness", *arguments], ours, kept)


def run(
    arguments: list[str],
    *,
    cwd: Path | str | None = None,
    env: dict[str, str] | None = None,
    afresh: bool = False,
    starter: Starter | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m harness ARGUMENTS` to its end; what it prints is captured."""
    pipe = subprocess.PIPE
    command = start(arguments, cwd=cwd, env=env, stdout=pipe, stderr=pipe, afresh=afresh, starter=starter)
    out, err = command.communicate()
    assert command.returncode is not None
    return subprocess.CompletedProcess(command.args, command.returncode, out, err)


def _serve(orders: socket.socket) -> dict[str, Any]:
    """Make a copy of this process for every order, and say how each ended; comes back in the copies, with their order."""
    running: dict[int, socket.socket] = {}
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready = select.select([orders.fileno(), awake], [], [])[0]
        if awake in ready:
            os.read(awake, 4096)
            while running:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                with running.pop(pid) as connection, contextlib.suppress(OSError):  # nobody may be waiting any more
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        if orders.fileno() not in ready:
            continue
        said, given, _, _ = socket.recv_fds(orders, 1, 4)
        if not said:
            raise SystemExit  # the tests are over
        connection = socket.socket(fileno=given[3])
        with connection.makefile("rb") as lines:
            order: dict[str, Any] = json.loads(lines.readline())
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in (awake, wake):
                os.close(number)
            for other in (orders, connection, *running.values()):
                other.close()
            for number, target in zip(given[:3], (1, 2, 0), strict=True):
                os.dup2(number, target)
                os.close(number)
            return order
        for number in given[:3]:
            os.close(number)
        running[pid] = connection
        connection.sendall(f"{pid}\n".encode())


def _become(order: dict[str, Any]) -> None:
    """Do what the order says, as `python -m harness` would."""
    if order["session"]:
        os.setsid()
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["harness", *order["arguments"]]
    runpy.run_module("harness", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    import gc
    import importlib

    import harness  # noqa: F401 (before torchvision)

    for name in LIBRARIES:
        importlib.import_module(name)
    for name in CLASSES:
        getattr(sys.modules["transformers"], name)
    gc.freeze()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
