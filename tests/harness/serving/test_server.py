"""`harness serve` ends with its server, however it is told to."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SERVING = """
import sys
from pathlib import Path
from harness.serving import server
server.command = lambda *_: ([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"], "one")
server.serve(Path("."), port=1)
"""
"""What is served does not matter here: a process that never becomes ready stands for vLLM's."""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_server_goes_with_the_command_also_in_a_background_job(sign: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVING],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as shells do for jobs behind an ampersand
    )
    try:
        assert process.stdout and process.stdout.readline() == "up\n"
        [server] = psutil.Process(process.pid).children()
        process.send_signal(sign)
        process.wait(timeout=30)
        deadline = time.monotonic() + 5
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    finally:
        process.kill()
