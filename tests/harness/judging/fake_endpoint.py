"""A local endpoint in the OpenAI protocol that misbehaves in every way that real ones do."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.core.types import ImageRef, Item, Response
from harness.judging.base import JudgeRequest
from harness.judging.openai import OpenAIJudge
from harness.judging.settings import OpenAIJudgeSettings
from harness.remote.endpoint import KEY_VARIABLE

SECRET = "sk-this-must-not-be-seen-anywhere"


class FakeServer(ThreadingHTTPServer):
    """Fails the first two times that a prompt is asked, in the way the prompt names, and then answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.running = self.most_running = 0
        self.temperatures: dict[str, list[float]] = {}
        self.scripted: dict[str, list[str]] = {}
        """Model -> its replies. Each new prompt takes the next reply; a prompt that is asked again gets the same reply."""
        self.given: dict[tuple[str, str], str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self.server.lock:
            self.server.asked[prompt] += 1
            turn = self.server.asked[prompt]
            self.server.temperatures.setdefault(prompt, []).append(body["temperature"])
            self.server.running += 1
            self.server.most_running = max(self.server.most_running, self.server.running)
        try:
            self.reply(prompt, turn, body["model"])
        finally:
            with self.server.lock:
                self.server.running -= 1

    def reply(self, prompt: str, turn: int, model: str) -> None:
        kind = prompt.partition(":")[0]
        good = json.dumps(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "another-model" if kind == "wrong" and turn <= 2 else f"{model}-2024-08-06",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "length" if kind == "long" else "stop",
                        "message": {
                            "role": "assistant",
                            "content": self.from_script(prompt, model) or self.words(prompt, kind, turn),
                        },
                    }
                ],
                "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
            }
        )
        if kind == "400":
            self.send(400, json.dumps({"error": {"message": "against the rules", "code": "content_filter"}}))
        elif kind == "quota":
            self.send(429, json.dumps({"error": {"message": "pay first", "code": "insufficient_quota"}}))
        elif kind == "401":
            self.send(401, json.dumps({"error": {"message": f"bad key {self.headers['Authorization']}"}}))
        elif kind in ("wrong", "vague", "mute", "moody") or (turn > 2 and kind != "never"):
            self.send(200, good)
        elif kind in ("429", "500"):
            self.send(int(kind), "{}", retry_after="0.01")
        elif kind == "malformed":
            self.send(200, good[: len(good) // 2])
        elif kind == "text":
            self.send(200, "all is well", content_type="text/plain")
        elif kind in ("empty", "never"):
            self.send(
                200, json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": []})
            )
        elif kind == "half":
            self.send(200, good[:40], length=len(good))
        elif kind == "slow":
            time.sleep(1.5)
            self.send(200, good)
        else:
            self.send(200, good)

    def from_script(self, prompt: str, model: str) -> str | None:
        with self.server.lock:
            if model in self.server.scripted and (model, prompt) not in self.server.given:
                self.server.given[model, prompt] = self.server.scripted[model].pop(0)
            return self.server.given.get((model, prompt))

    @staticmethod
    def words(prompt: str, kind: str, turn: int) -> str:
        if kind == "vague" and turn == 1:
            return "I would rather not say."
        if kind == "mute":
            return "I never say."
        if kind == "moody":
            return f"Rating: {turn % 2 + 4}"
        return f"Rating: 4 ({prompt})"

    def send(
        self,
        status: int,
        text: str,
        *,
        length: int | None = None,
        content_type: str = "application/json",
        retry_after: str | None = None,
    ) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(length or len(text.encode())))
            if retry_after:
                self.send_header("Retry-After", retry_after)
            self.end_headers()
            self.wfile.write(text.encode())
        except OSError:  # the client gave up
            pass
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[FakeServer]:
    """A running endpoint on a free port."""
    with FakeServer() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def make(server: FakeServer, cache: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> OpenAIJudge:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    chosen = {"base_url": server.url, "model": "judge", "timeout_s": 0.7, **settings}
    return OpenAIJudge(OpenAIJudgeSettings.model_validate(chosen), cache)


def requests(*prompts: str) -> list[JudgeRequest]:
    return [JudgeRequest(Item(prompt, "", ImageRef(), prompt), Response(prompt, ""), prompt) for prompt in prompts]
