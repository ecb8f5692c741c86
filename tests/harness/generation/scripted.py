"""An endpoint in the OpenAI protocol whose models say what a function of model, text, image and seed says."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request: the model's name, the text, SHA-256 of the image ("" without one), and the sampling."""

    model: str
    text: str
    image: str
    seed: int | None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Likely:
    """A text with the log-probabilities of its likeliest first tokens."""

    text: str
    first_token: dict[str, float]


@dataclass(frozen=True)
class Cut:
    """The beginning of a text that was cut off at the limit of tokens."""

    text: str


Say = Callable[[Asked], str | Likely | Cut | tuple[int, dict[str, Any]]]
"""The reply's text; or an HTTP status with its body."""
FAULTS = ("429", "500", "cut", "empty")


class ScriptedEndpoint(ThreadingHTTPServer):
    """`asked` counts the requests that were answered with a text, by what was asked; `failed` the failures.

    Args:
        say: what the models say.
        delay_s: time until each reply.
        faulty: share of the requests that fail, in the ways of `FAULTS` in turn.
    """

    daemon_threads = True

    def __init__(self, say: Say, delay_s: float = 0.0, faulty: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.say, self.delay_s, self.faulty = say, delay_s, faulty
        self.failed: Counter[str] = Counter()
        self.requests = 0
        self.asked: Counter[Asked] = Counter()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedEndpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][0]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        image = hashlib.sha256(base64.b64decode(urls[0].partition(",")[2])).hexdigest() if urls else ""
        sampling = (body.get(name) for name in ("seed", "temperature", "top_p", "max_tokens"))
        asked = Asked(body["model"], text, image, *sampling)
        time.sleep(self.server.delay_s)
        with self.server.lock:
            self.server.requests += 1
            if int(self.server.requests * self.server.faulty) > self.server.failed.total():
                kind = FAULTS[self.server.failed.total() % len(FAULTS)]
                self.server.failed[kind] += 1
                return self._fail(kind)
            said = self.server.say(asked)
            if not isinstance(said, tuple):
                self.server.asked[asked] += 1
        if isinstance(said, tuple):
            self._send(*said)
            return
        text = said if isinstance(said, str) else said.text
        tops = said.first_token if isinstance(said, Likely) else {}
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "length" if isinstance(said, Cut) else "stop",
            "message": {"role": "assistant", "content": text},
        }
        if tops:
            top = [{"token": token, "logprob": value, "bytes": None} for token, value in tops.items()]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
        self._send(
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": asked.model,
                "choices": [choice],
                "usage": usage,
            },
        )

    def _fail(self, kind: str) -> None:
        if kind == "cut":
            with contextlib.suppress(OSError):
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"id": "1", "choices": [{"mess')
            self.close_connection = True
        elif kind == "empty":
            self._send(200, {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": ""}}]})
        else:
            self._send(int(kind), {"error": {"message": "try again"}})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client is gone: it was killed
            pass

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def scripted(say: Say, delay_s: float = 0.0, faulty: float = 0.0) -> Iterator[ScriptedEndpoint]:
    """The endpoint, running."""
    server = ScriptedEndpoint(say, delay_s, faulty)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
