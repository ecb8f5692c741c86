"""`harness serve` ends with its server, however it is told to."""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from harness.core.errors import BadInputError, HarnessError
from harness.serving import server
from tests.tiny import tiny_llava

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
SERVING = """
import sys
from pathlib import Path
from harness.serving import server
server.command = lambda *_: ([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"], "one")
server.serve(Path("."), port=1)
"""
"""What is served does not matter here: a process that never becomes ready stands for vLLM's."""


class Healthy(BaseHTTPRequestHandler):
    """A server that is ready."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_server_of_this_machine_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as ready:
        threading.Thread(target=ready.serve_forever, daemon=True).start()
        try:
            assert server._answers(f"http://127.0.0.1:{ready.server_port}/health")
        finally:
            ready.shutdown()


PARSED = """
import json, sys
import harness
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
model = AsyncEngineArgs.from_cli_args(arguments).create_model_config()
print(json.dumps([model.get_diff_sampling_param(), model.try_get_generation_config().get("eos_token_id")]))
"""
"""What the server makes of its command line: the sampling of requests that name none, and the tokens that end an answer."""


@needs_vllm
@pytest.mark.slow
def test_a_request_is_not_changed_by_the_models_generation_config(tmp_path: Path) -> None:
    """Penalties and cut-offs in the model's files apply to no request; the tokens that end an answer do."""
    model = tmp_path / "model"
    tiny_llava(model)
    settings = {"repetition_penalty": 1.5, "top_k": 2, "min_p": 0.1, "temperature": 0.3, "eos_token_id": [2, 5]}
    (model / "generation_config.json").write_text(json.dumps(settings))
    line, _ = server.command(model, "127.0.0.1", 8000)
    options = line[line.index("--model") :]
    done = subprocess.run([sys.executable, "-c", PARSED, *options], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [{}, [2, 5]]


@needs_vllm
@pytest.mark.slow
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
        [served] = psutil.Process(process.pid).children()
        process.send_signal(sign)
        process.wait(timeout=30)
        deadline = time.monotonic() + 5
        while served.is_running() and served.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not served.is_running() or served.status() == psutil.STATUS_ZOMBIE
        assert process.returncode == 0, "to be stopped is no error"
    finally:
        process.kill()


DYING = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Once(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

HTTPServer(("127.0.0.1", int(sys.argv[1])), Once).handle_request()
os._exit(3)
"""
"""A server that is ready once, and then dies."""


@needs_vllm
def test_a_server_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr(server, "command", lambda *_: ([sys.executable, "-c", DYING, str(port)], "one"))
    with pytest.raises(HarnessError, match="the server ended with code 3"):
        server.serve(Path(), port=port)
    assert f"Serving one at http://127.0.0.1:{port}/v1" in capsys.readouterr().err


@needs_vllm
def test_a_port_in_use_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server there would answer, and be taken for the new one."""
    monkeypatch.setattr(server, "command", lambda *_: pytest.fail("the checkpoint was read"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as other:
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(BadInputError, match=f"port {other.server_port} is in use") as caught:
                server.serve(Path(), host, other.server_port)
            assert "--port" in str(caught.value.remedy)
    with pytest.raises(BadInputError, match="the host has no address"):
        server._check_free("a..b", 8000)
    server._check_free("127.0.0.1", other.server_port)


def test_the_answer_of_another_server_is_not_taken_for_that_of_one_that_died() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    class Other(Healthy):
        """Answers when the process that is waited for has ended."""

        def do_GET(self) -> None:
            process.kill()
            process.wait()
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        try:
            with pytest.raises(HarnessError, match="before it was ready"):
                server._wait(process, f"http://127.0.0.1:{other.server_port}/health")
        finally:
            other.shutdown()
            process.kill()
