"""One line of the doctor's findings, and running checks in child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

from harness.models.torchvision_shim import CHILD_FOLDER

State = Literal["ok", "warn", "missing", "fail"]
"""`warn`: something optional is not there; `missing`: something is not there that the user asked for."""


@dataclass(frozen=True)
class Line:
    """A check's name, state, finding, and remedy ("" if nothing needs to be done)."""

    name: str
    state: State
    finding: str
    remedy: str = ""


@dataclass(frozen=True)
class Tried:
    """How a child process ended: whether it succeeded, what it printed, and the end of its error output."""

    well: bool
    printed: str
    problem: str


def python(code: str, *arguments: str, timeout_s: float = 120, shim: bool = True) -> Tried:
    """Run code in a child Python with this one's environment.

    Args:
        code: what to run.
        arguments: its `sys.argv[1:]`.
        timeout_s: time limit, after which the process is killed; this counts as a failure.
        shim: with the torchvision shim on its path, as in the harness's own child processes.
    """
    environment = dict(os.environ)
    if shim:
        paths = (str(CHILD_FOLDER), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments],  # -P: the working directory is not imported from
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Tried(False, "", f"no answer within {timeout_s:g} s")
    said = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
    return Tried(done.returncode == 0, done.stdout.strip(), "" if done.returncode == 0 else said[-1][:300])
