"""Every kind of fault that endpoints were seen to have, each as a script: what is sent first, and what must come of it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

KEY = "sk-this-must-not-be-seen-anywhere"
PROMPT_TOKENS, COMPLETION_TOKENS = 100, 50
"""What a good reply says that it cost."""

Outcome = Literal["answered", "declined", "refused", "stops"]
"""`answered`: at last, by every item. `declined`: a reply that is paid for and is no answer. `refused`: no reply to this item. `stops`: the
command ends at once, and says why."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        body: sent instead of a good reply: bytes as they are, text and values as JSON; a dict is laid over the good reply where `over`.
        outcome: what must come of it.
        said: a part of the message that must be given (of `declined`, `refused` and `stops`).
        remedy: a part of the remedy.
        status: HTTP status.
        headers: of the response.
        over: the body's fields replace those of a good reply.
        times: so often for every prompt; then the reply is good. 0: always; -1: never.
        how: what is done besides sending a whole body.
        paid: whether the vendor would charge for it.
        sent: what must be among the fields of every request in the end, or, with None, must not be.
    """

    body: Any = None
    outcome: Outcome = "answered"
    said: str = ""
    remedy: str = ""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    over: bool = False
    times: int = 1
    how: Literal["whole", "cut", "reset", "slow", "drip", "flood"] = "whole"
    paid: bool = False
    sent: tuple[tuple[str, Any], ...] = ()


def error(message: str, code: Any = None, **more: Any) -> dict[str, Any]:
    """An error as OpenAI sends it."""
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code} | more}


def _message(**fields: Any) -> dict[str, Any]:
    """Another choice laid over the good one."""
    finish = fields.pop("finish_reason", "stop")
    return {"choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant"} | fields}]}


def _usage(value: Any) -> Fault:
    return Fault({"usage": value}, over=True, times=0, paid=True)


def _busy(wait: str) -> Fault:
    return Fault(error("slow down"), status=429, headers=(("Retry-After", wait),))


_TOKENS = error(
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "unsupported_parameter",
    param="max_tokens",
)
_TEMPERATURE = error(
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
    "unsupported_value",
    param="temperature",
)

FAULTS: dict[str, Fault] = {
    # It passes.
    "busy": _busy("0.01"),
    "busy, wait a year": _busy("31536000"),
    "busy, wait for ever": _busy("inf"),
    "busy, wait nonsense": _busy("\xb2 minutes"),
    "busy, wait NaN": _busy("nan"),
    "busy, wait a negative time": _busy("-5"),
    "busy, wait until a date that is none": _busy("Mon, 99 Foo 99999 99:99:99 GMT"),
    "500": Fault(error("oops"), status=500),
    "502 as a web page": Fault(b"<html><head><title>Bad gateway</title></head></html>", status=502),
    "503 without a body": Fault(b"", status=503),
    "408": Fault(error("too slow"), status=408),
    "an error with status 200": Fault(error("provider failed", 502)),
    "an error beside a choice": Fault(error("provider failed", 502), over=True),
    "an error in a choice": Fault(
        {"choices": [_message(content="", finish_reason="error")["choices"][0] | error("provider failed", 502)]}, over=True
    ),
    "ended with an error": Fault(_message(content="A do", finish_reason="error"), over=True, paid=True),
    "aborted": Fault(_message(content="A do", finish_reason="abort"), over=True, paid=True),
    "a call of a tool": Fault(_message(content=None, finish_reason="tool_calls"), over=True, paid=True),
    "cut off": Fault(how="cut"),
    "connection reset": Fault(how="reset"),
    "an empty body": Fault(b"", paid=True),
    "a web page": Fault(b"<!doctype html><p>Sign in</p>", headers=(("Content-Type", "text/html"),), paid=True),
    "plain text": Fault(b"all is well", headers=(("Content-Type", "text/plain"),), paid=True),
    "half of the JSON": Fault(b'{"id": "1", "choices": [{"mess', paid=True),
    "bytes that are no text": Fault(b"\xff\xfe\x00\x80", paid=True),
    "JSON that is a list": Fault([], paid=True),
    "JSON nested too deep": Fault(b"[" * 100_000, paid=True),
    "no choices": Fault({"choices": []}, over=True, paid=True),
    "choices of an odd type": Fault({"choices": "none"}, over=True, paid=True),
    "a choice that is a text": Fault({"choices": ["yes"]}, over=True, paid=True),
    "no message": Fault({"choices": [{"message": None}]}, over=True, paid=True),
    "gzip that is none": Fault(b"not zipped", headers=(("Content-Encoding", "gzip"),), paid=True),
    "no reply in time": Fault(how="slow", paid=True),
    "a byte now and then": Fault(how="drip", paid=True),
    "a flood": Fault(how="flood", paid=True),
    # Odd fields: the answer is kept.
    "usage in words": _usage({"prompt_tokens": "many", "completion_tokens": "few"}),
    "usage null": _usage(None),
    "usage a text": _usage("lots"),
    "usage a list": _usage([1, 2]),
    "usage negative": _usage({"prompt_tokens": -1, "completion_tokens": -7}),
    "usage a fraction": _usage({"prompt_tokens": 1.5, "completion_tokens": None}),
    "usage beyond reason": _usage({"prompt_tokens": 10**30, "completion_tokens": 1e300}),
    "usage of lists": _usage({"prompt_tokens": [1], "completion_tokens": {"a": 1}}),
    "usage true": _usage({"prompt_tokens": True, "completion_tokens": False}),
    "model null": Fault({"model": None}, over=True, times=0, paid=True),
    "model a number": Fault({"model": 7}, over=True, times=0, paid=True),
    "model a list": Fault({"model": ["judge"]}, over=True, times=0, paid=True),
    "identity of odd types": Fault({"id": 5, "object": None, "created": "now"}, over=True, times=0, paid=True),
    # It is no answer.
    "a refusal": Fault(
        _message(content=None, refusal="I can't help with that."),
        "declined",
        "I can't help with that.",
        over=True,
        times=0,
        paid=True,
    ),
    "cut by a filter": Fault(
        _message(content="A do", finish_reason="content_filter"), "declined", "content filter", over=True, times=0, paid=True
    ),
    "blocked by Gemini": Fault(
        {"choices": [{"index": 0, "finish_reason": "content_filter: PROHIBITED_CONTENT"}]},
        "declined",
        "content filter",
        over=True,
        times=0,
        paid=True,
    ),
    "cut for safety": Fault(
        _message(content="A do", finish_reason="SAFETY"), "declined", "content filter", over=True, times=0, paid=True
    ),
    "cut off before a word": Fault(
        _message(content="", finish_reason="length"), "declined", "first word", over=True, times=0, paid=True
    ),
    "content policy": Fault(
        error("The response was filtered due to Azure's content management policy.", "content_filter"),
        "refused",
        "vendor refuses the content",
        status=400,
        times=0,
    ),
    "too long": Fault(
        error("This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        "refused",
        "exceed the",
        status=400,
        times=0,
    ),
    # All would be refused.
    "key": Fault(error(f"Incorrect API key: {KEY}."), "stops", "key is not accepted", "OPENAI_API_KEY", 401, times=0),
    "key, cut": Fault(error(f"Bad key: {KEY[:20]}"), "stops", "key is not accepted", "OPENAI_API_KEY", 401, times=0),
    "400 that repeats the key": Fault(
        error(f"bad request: Authorization: Bearer {KEY}"), "refused", "refused the request", status=400, times=0
    ),
    "permission": Fault(error("no access"), "stops", "lacks the permission", "access", 403, times=0),
    "no such model": Fault(
        error("The model `judge` does not exist", "model_not_found"),
        "stops",
        "has no such model|has no model",
        "--(judge-)?model",
        404,
        times=0,
    ),
    "no such address": Fault({"detail": "Not Found"}, "stops", "no chat completions", "/v1", 404, times=0),
    "no quota": Fault(error("You exceeded your current quota", "insufficient_quota"), "stops", "quota", "add credit", 429, times=0),
    "billing": Fault(error("Billing hard limit has been reached"), "stops", "credit", "add credit", 400, times=0),
    "payment": Fault(error("Insufficient credits"), "stops", "credit", "add credit", 402, times=0),
    "redirected": Fault(b"", "stops", "redirects to another address", "give that address", 307, times=0),
    "another model": Fault({"model": "judge-mini"}, "stops", "came from 'judge-mini'", "accept=any", over=True, times=0, paid=True),
    # The model takes other parameters.
    "max_completion_tokens": Fault(
        _TOKENS, status=400, times=0, sent=(("max_tokens", None), ("max_completion_tokens", 0))
    ),
    "no temperature": Fault(_TEMPERATURE, status=400, times=0, sent=(("temperature", None),)),
}  # fmt: skip
PROBES = ("Describe this image.", "Say yes.")
"""What the backend asks before a suite is begun."""
PASSING = [name for name, fault in FAULTS.items() if fault.outcome == "answered" and fault.times]


class FaultyServer(ThreadingHTTPServer):
    """An endpoint with one kind of fault."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, fault: Fault, elsewhere: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault, self.elsewhere = fault, elsewhere
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self.good: Counter[str] = Counter()
        """Prompt -> good replies: never more than one."""
        self.charged = 0
        """Calls that a vendor would charge for."""
        self.running = self.most_running = 0
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no news."""


def answer_to(prompt: str) -> str:
    """The words of a good reply."""
    return f"Yes, {prompt}. Rating: 4"


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "judge", "object": "model"}]})

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][0]["content"]
        prompt = content if isinstance(content, str) else content[-1]["text"]
        with server.lock:
            server.asked[prompt] += 1
            turn = server.asked[prompt]
            server.bodies.append({name: value for name, value in body.items() if name != "messages"})
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.paths.append(self.path)
            server.running += 1
            server.most_running = max(server.most_running, server.running)
        try:
            self._reply(prompt, turn, body)
        finally:
            with server.lock:
                server.running -= 1

    def _reply(self, prompt: str, turn: int, body: dict[str, Any]) -> None:
        fault = self.server.fault
        good = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer_to(prompt)}}
            ],
            "usage": {
                "prompt_tokens": PROMPT_TOKENS,
                "completion_tokens": COMPLETION_TOKENS,
                "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
            },
        }
        over = bool(fault.sent) and all(self._is_sent(body, name, value) for name, value in fault.sent)
        spared = fault.outcome in ("declined", "refused") and prompt in PROBES  # these are about single requests
        bad = not over and not spared and (turn <= fault.times or not fault.times)
        whole = fault.over and fault.outcome == "answered" and not fault.times  # odd, and an answer all the same
        with self.server.lock:
            self.server.charged += fault.paid if bad else 1
            self.server.good[prompt] += whole or not bad
        if not bad:
            self._send(200, good)
            return
        content = good | fault.body if fault.over else good if fault.how != "whole" else fault.body
        headers = dict(fault.headers)
        if 300 <= fault.status < 400:
            headers["Location"] = f"{self.server.elsewhere}/chat/completions"
        self._send(fault.status, content, headers, fault.how)

    @staticmethod
    def _is_sent(body: dict[str, Any], name: str, value: Any) -> bool:
        return name not in body if value is None else name in body

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None, how: str = "whole") -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client gave up
            if how == "reset":
                self.connection.shutdown(2)
                return
            self.send_response(status)
            for name, text in ({"Content-Type": "application/json"} | (headers or {})).items():
                self.send_header(name, text)
            if how != "flood":
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if how == "slow":
                time.sleep(2)
            elif how == "drip":
                for byte in data[:20]:
                    self.wfile.write(bytes((byte,)))
                    self.wfile.flush()
                    time.sleep(0.1)
                return
            elif how == "flood":
                for _ in range(20):
                    self.wfile.write(b" " * (1 << 20))
                return
            self.wfile.write(data[: len(data) // 2] if how == "cut" else data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def faulty(fault: Fault, elsewhere: str = "") -> Iterator[FaultyServer]:
    """A running endpoint on a free port; `elsewhere` is where it redirects to."""
    with FaultyServer(fault, elsewhere) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()
