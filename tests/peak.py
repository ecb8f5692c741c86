"""How much memory one process took at most, its children apart."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path


def peak_bytes(command: list[str], folder: Path, **environment: str) -> int:
    """The largest resident memory of a command's own process, which must succeed (Linux).

    The kernel keeps the high-water mark, and it never falls: what is read last before the end is it. `getrusage` would count the
    children, too, and an engine is one.
    """
    highest = 0
    with tempfile.TemporaryFile("w+") as said:
        environ = {**os.environ, **environment}
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=said, env=environ)
        while process.poll() is None:
            highest = max(highest, _mark(process.pid))
            time.sleep(0.02)
        said.seek(0)
        assert process.returncode == 0, said.read()[-3000:]
    return highest


def _mark(pid: int) -> int:
    """`VmHWM` in bytes; 0 of a process that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    _, found, rest = status.partition("VmHWM:")
    return int(rest.split()[0]) * 1024 if found else 0
