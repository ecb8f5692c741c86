"""An endpoint in the OpenAI protocol whose models say what a function of model, text, image and seed says."""

from __future__ import annotations

import base64
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


Say = Callable[[Asked], str | tuple[int, dict[str, Any]]]
"""The reply's text; or an HTTP status with its body."""


class ScriptedEndpoint(ThreadingHTTPServer):
    """`asked` counts the requests that were answered with a text, by what was asked."""

    daemon_threads = True

    def __init__(self, say: Say, delay_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.say, self.delay_s = say, delay_s
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
            said = self.server.say(asked)
            if isinstance(said, str):
                self.server.asked[asked] += 1
        if not isinstance(said, str):
            self._send(*said)
            return
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
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
def scripted(say: Say, delay_s: float = 0.0) -> Iterator[ScriptedEndpoint]:
    """The endpoint, running."""
    server = ScriptedEndpoint(say, delay_s)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
