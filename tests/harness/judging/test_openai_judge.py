"""The judge client against a local endpoint that misbehaves in every way that real ones do."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.judging.base import JudgeRequest
from harness.judging.openai import KEY_VARIABLE, OpenAIJudge, OpenAIJudgeSettings
from harness.types import ImageRef, Item, Response

SECRET = "sk-this-must-not-be-seen-anywhere"


class FakeServer(ThreadingHTTPServer):
    """Fails the first two times that a prompt is asked, in the way the prompt names, and then answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.running = self.most_running = 0


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self.server.lock:
            self.server.asked[prompt] += 1
            turn = self.server.asked[prompt]
            self.server.running += 1
            self.server.most_running = max(self.server.most_running, self.server.running)
        try:
            self.reply(prompt, turn)
        finally:
            with self.server.lock:
                self.server.running -= 1

    def reply(self, prompt: str, turn: int) -> None:
        kind = prompt.partition(":")[0]
        good = json.dumps(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "the-real-name",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": f"Rating: 4 ({prompt})"},
                    }
                ],
                "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
            }
        )
        if kind == "401":
            self.send(401, json.dumps({"error": {"message": f"bad key {self.headers['Authorization']}"}}))
        elif turn > 2 and kind != "never":
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


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def make(server: FakeServer, cache: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> OpenAIJudge:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    return OpenAIJudge(OpenAIJudgeSettings(base_url=url, model="judge", timeout_s=0.7, **settings), cache)  # type: ignore[arg-type]


def requests(*prompts: str) -> list[JudgeRequest]:
    return [JudgeRequest(Item(prompt, "", ImageRef(), prompt), Response(prompt, ""), prompt) for prompt in prompts]


def test_every_item_is_answered_once_through_all_failures(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ("429", "500", "malformed", "text", "empty", "half", "slow", "good")
    prompts = [f"{kind}:{number}" for kind in kinds for number in range(3)]
    judge = make(server, tmp_path, monkeypatch, concurrency=5)
    replies = list(judge.judge(requests(*prompts)))
    assert Counter(reply.item_id for reply in replies) == Counter(prompts)
    assert {reply.item_id: reply.text for reply in replies} == {prompt: f"Rating: 4 ({prompt})" for prompt in prompts}
    assert {server.asked[prompt] for prompt in prompts if not prompt.startswith("good")} == {3}
    assert {server.asked[prompt] for prompt in prompts if prompt.startswith("good")} == {1}
    assert judge.provenance()["answered_by"] == ["the-real-name"]
    # The bound holds for what the client has open; a request it gave up on may still sleep in the server.
    assert server.most_running <= 5 + 3 * 2

    before = server.asked.total()
    again = make(server, tmp_path, monkeypatch)
    assert {reply.item_id: reply.text for reply in again.judge(requests(*prompts))} == {
        reply.item_id: reply.text for reply in replies
    }
    assert server.asked.total() == before, "a kept reply was asked for again"
    assert again.provenance()["answered_by"] == ["the-real-name"]


def test_concurrency_is_bounded(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(
        make(server, tmp_path, monkeypatch, concurrency=2).judge(requests(*(f"good:{number}" for number in range(20))))
    )
    assert 1 <= server.most_running <= 2


def test_what_never_answers_is_an_error_and_is_not_kept(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = make(server, tmp_path, monkeypatch, attempts=2)
    bad, good = sorted(judge.judge(requests("never:1", "good:1")), key=lambda reply: reply.text is not None)
    assert bad.text is None and bad.error and "2 attempts" in bad.error
    assert good.text == "Rating: 4 (good:1)"
    assert server.asked["never:1"] == 2
    list(judge.judge(requests("never:1")))
    assert server.asked["never:1"] == 4


def test_another_model_or_prompt_is_another_verdict(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    for model in ("one", "two", "one"):
        list(OpenAIJudge(OpenAIJudgeSettings(base_url=url, model=model), tmp_path).judge(requests("good:1")))
    assert server.asked["good:1"] == 2


def test_a_refused_key_stops_and_is_shown_nowhere(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    judge = make(server, tmp_path, monkeypatch)
    list(judge.judge(requests("good:1")))
    with pytest.raises(HarnessError) as caught:
        list(judge.judge(requests("401:1")))
    out = capfd.readouterr()
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert kept and SECRET not in str(caught.value) + out.out + out.err + kept + json.dumps(judge.provenance()) + repr(
        judge.settings
    )


def test_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(HarnessError, match="API key"):
        OpenAIJudge(OpenAIJudgeSettings(), tmp_path)
