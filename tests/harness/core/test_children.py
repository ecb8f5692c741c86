"""Work in a process of its own: results and errors come back, and nobody outlives a killed parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.core.children import in_child
from harness.core.errors import HarnessError


def whose(number: int) -> tuple[int, int]:
    return number, os.getpid()


def refuses() -> None:
    raise HarnessError("it does not work", where="here", remedy="mend it")


def waits(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(120)


def test_results_come_back_from_another_process() -> None:
    number, pid = in_child(whose, 7)
    assert number == 7 and pid != os.getpid()


def test_errors_come_back_whole() -> None:
    with pytest.raises(HarnessError) as caught:
        in_child(refuses)
    assert (caught.value.problem, caught.value.where, caught.value.remedy) == ("it does not work", "here", "mend it")


def test_a_child_ends_when_its_parent_was_killed(tmp_path: Path) -> None:
    said = tmp_path / "pid"
    script = tmp_path / "parent.py"
    script.write_text(
        "from harness.core.children import in_child\nfrom tests.harness.core.test_children import waits\n"
        f"if __name__ == '__main__':\n    in_child(waits, {str(said)!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment)
    deadline = time.monotonic() + 60
    while not (said.exists() and said.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(said.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while Path(f"/proc/{child}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.1)
    else:
        assert not Path(f"/proc/{child}/stat").exists(), "the child outlives its parent"
