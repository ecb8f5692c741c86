"""The harness's side of a vLLM engine in a separate process: sending requests, reading answers, reporting failures."""

from __future__ import annotations

import itertools
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError
from harness.core.removal import remove
from harness.core.types import ImageRef
from harness.serving.base import Request
from harness.serving.shares import Share
from harness.serving.worker_protocol import WINDOW_IMAGES, bad_input_from_json, image_to_json, request_to_json

_END_PATIENCE_S = 20


class EngineProcess:
    """A process that imports vLLM, and after `load` runs an engine.

    Args:
        share: the part of this machine that it may use.
        environment: environment of the process.
        said: receives (this engine, line) for every line of output, and (this engine, None) at its end. Several engines may share one
        queue.

    Attributes:
        open: number of unanswered requests.
        answers: number of answers.
    """

    def __init__(
        self,
        share: Share,
        environment: dict[str, str],
        said: queue.SimpleQueue[tuple[EngineProcess, str | None]],
    ) -> None:
        self.share = share
        self.open = self.answers = 0
        self._is_loaded = False
        self._keys = itertools.count()
        self._images: dict[str, str] = {}  # the image's identity -> the engine's key for it
        self._log = tempfile.NamedTemporaryFile("w+", prefix="vllm-", suffix=".log", delete=False)  # noqa: SIM115 (lives as long as the engine)
        self._process = subprocess.Popen(
            # -P: the working directory may contain packages
            [sys.executable, "-P", "-m", "harness.serving.vllm_worker", json.dumps(share.cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=share.environment(environment),
        )
        threading.Thread(target=self._listen, args=(said,), daemon=True).start()

    def load(self, order: Mapping[str, Any]) -> None:
        """Let it load a model.

        Args:
            order: the model and how to load it, see `harness.serving.vllm_worker`.

        Raises:
            HarnessError: it ended.
        """
        self._is_loaded = True
        self._send(order)
        self.flush()

    def _listen(self, said: queue.SimpleQueue[tuple[EngineProcess, str | None]]) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            said.put((self, line))
        said.put((self, None))

    def read(self, line: str | None) -> dict[str, Any]:
        """Parse a line.

        Raises:
            BadInputError: the engine could not decode a picture.
            HarnessError: the engine ended, or reports a failure.
        """
        if line is None:
            raise self.failure("the engine's process ended")
        value: dict[str, Any] = json.loads(line)
        if (error := bad_input_from_json(value)) is not None:
            raise error
        if "error" in value:
            raise self.failure(str(value["error"]))
        return value

    def has(self, image: ImageRef) -> bool:
        """Whether it received this image and still has it."""
        return image.fingerprint() in self._images

    def ask(self, request: Request) -> None:
        """Queue a request, which is sent with the next `flush` at the latest; an image is sent with its first request.

        Raises:
            HarnessError: it ended.
        """
        image = request.image
        if not self.has(image):
            if len(self._images) >= WINDOW_IMAGES:
                self._images.pop(next(iter(self._images)))
            self._images[image.fingerprint()] = key = str(next(self._keys))
            self._send({"image_key": key, "image": image_to_json(image)})
        self._send(request_to_json(request, self._images[image.fingerprint()]))
        self.open += 1

    def answered(self) -> None:
        """Count an answer."""
        self.open -= 1
        self.answers += 1

    @property
    def log(self) -> str:
        """The file of what vLLM itself says."""
        return self._log.name

    @property
    def part(self) -> dict[str, Any]:
        """Its share of the machine and of the work. JSON-able."""
        return {
            **({"gpus": self.share.gpus} if self.share.gpus else {}),
            **({"cores": self.share.cores} if self.share.cores else {}),
            "answers": self.answers,
        }

    def _send(self, value: Mapping[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
        except BrokenPipeError:
            raise self.failure("the engine's process ended") from None

    def flush(self) -> None:
        """Send queued requests.

        Raises:
            HarnessError: it ended.
        """
        assert self._process.stdin
        try:
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self.failure("the engine's process ended") from None

    def failure(self, problem: str) -> HarnessError:
        """The error, with the end of the engine's own log."""
        self._log.flush()
        lines = Path(self._log.name).read_text(encoding="utf-8", errors="replace").splitlines()
        telling = [line for line in lines if "Error" in line or "error:" in line][-3:] or lines[-3:]
        try:
            code: int | None = self._process.wait(timeout=5)  # its pipe closes a moment before the process ends
        except subprocess.TimeoutExpired:
            code = None
        if code is not None and code < 0:  # ended by a signal, which is not in its log
            return HarnessError(
                f"vLLM: the engine's process was ended by signal {-code} ({signal.Signals(-code).name})",
                where=self._log.name,
                remedy="run the same command again to resume; answers so far are stored"
                + ("; if the machine ran out of memory, give the engine less" if code == -signal.SIGKILL else ""),
            )
        return HarnessError(
            f"vLLM: {problem}"
            + (f" with code {code}" if code is not None else "")
            + (": " + " | ".join(line[-300:] for line in telling) if telling else ""),
            where=self._log.name,
            remedy="see that log; check that vLLM works on this machine: harness doctor --full",
        )

    def end_input(self) -> None:
        """Close its input, after which it ends."""
        assert self._process.stdin
        try:
            self._process.stdin.close()
        except BrokenPipeError:  # it has already ended
            return

    def wait(self) -> None:
        """Wait until it ends, or kill it; its log is removed if it succeeded, or was never used."""
        if not self._is_loaded:
            self._process.kill()
        try:
            code = self._process.wait(timeout=_END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._log.close()
        if code == 0 or not self._is_loaded:
            log = Path(self._log.name)
            remove(log, within=log.parent)
