"""A local endpoint in the OpenAI protocol that looks at images, and fails at a rate as real ones do."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.tiny import tiny_photograph

SECRET = "sk-this-must-not-be-seen-anywhere"
DECLINED = "I'm sorry, I can't help with that."
TROUBLES = ("429", "500", "cut", "empty")


def expected(image: bytes, prompt: str) -> str:
    """What the endpoint answers: it depends on the image's bytes and on the question."""
    return f"Yes, {hashlib.sha256(image).hexdigest()[:8]} {prompt}"


class VisionServer(ThreadingHTTPServer):
    """Answers with a digest of image and question; `trouble` is the share of requests that go wrong, each kind in turn."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, model: str, trouble: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.trouble, self.dead = model, trouble, False
        self.say: Callable[[bytes, str], str | None] = expected
        """(the picture's bytes, question) -> answer; None: the model declines in its own words (`DECLINED`)."""
        self.rng, self.lock = random.Random(0), threading.Lock()
        self.answered: Counter[tuple[str, str]] = Counter()
        self.troubles: Counter[str] = Counter()
        self.bodies: deque[dict[str, Any]] = deque(maxlen=8)  # the last ones; each has an image in it

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def next_trouble(self) -> str | None:
        """The trouble of this request, if it has one."""
        with self.lock:
            if self.rng.random() >= self.trouble:
                return None
            kind = TROUBLES[self.troubles.total() % len(TROUBLES)]
            self.troubles[kind] += 1
            return kind


class Handler(BaseHTTPRequestHandler):
    server: VisionServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send(200, {"object": "list", "data": [{"id": self.server.model, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.dead:
            self.connection.close()
            self.close_connection = True
        elif self.headers["Authorization"] != f"Bearer {SECRET}":
            self.send(401, {"error": {"message": f"bad key {self.headers['Authorization']}"}})
        elif body["model"] != self.server.model.partition("@")[0]:
            self.send(404, {"error": {"message": "no such model"}})
        else:
            self.answer(body)

    def answer(self, body: dict[str, Any]) -> None:
        content = body["messages"][0]["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        prompt = parts[-1]["text"]
        if len(parts) == 2 and self.server.model.startswith("blind"):
            self.send(400, {"error": {"message": "At most 0 image(s) may be provided in one prompt."}})
            return
        if "forbidden" in prompt:
            self.send(400, {"error": {"message": "against the rules", "code": "content_filter"}})
            return
        kind = self.server.next_trouble()
        if kind == "429":
            self.send(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"})
        elif kind == "500":
            self.send(500, {"error": {"message": "oops"}})
        elif kind == "empty":
            self.send(200, None)
        else:
            image = base64.b64decode(parts[0]["image_url"]["url"].partition(",")[2]) if len(parts) == 2 else b""
            text = self.server.say(image, prompt)
            if self.server.model == "moody" and self.server.rng.random() < 0.3:
                text = "No, " + text
            message = {"role": "assistant", "content": None if text is None else f" {text} "}
            message |= {"refusal": DECLINED} if text is None else {}
            answer = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": self.server.model.replace("@", "-"),
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 580, "completion_tokens": 7, "total_tokens": 587},
            }
            if kind == "cut":
                self.send(200, answer, cut=True)
                return
            with self.server.lock:
                self.server.answered[text or "", prompt] += 1
                self.server.bodies.append(body)
            self.send(200, answer)

    def send(self, status: int, value: Any, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
        except OSError:  # the client gave up
            pass
        if cut:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def seeing(model: str = "seer", trouble: float = 0.0) -> Iterator[VisionServer]:
    """A running endpoint on a free port."""
    with VisionServer(model, trouble) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def small_pope(folder: Path, images: int = 10, forbidden: int | None = None) -> Path:
    """Four questions a picture in POPE's official layout, below `data`; one of them may be refused by the endpoint."""
    (folder / "data" / "pope" / "images").mkdir(parents=True)
    rows = []
    for number in range(4 * images):
        image = f"{number // 4}.png"
        if number % 4 == 0:
            tiny_photograph(folder / "data" / "pope" / "images" / image, number)
        question = "Is there a forbidden dog?" if number == forbidden else f"Is there a dog in the image, {number}?"
        rows.append({"question_id": number, "image": image, "text": question, "label": ("yes", "no")[number % 2]})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "pope" / "coco_pope_random.json").write_text(lines)
    return folder
