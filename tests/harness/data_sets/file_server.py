"""A local web server that stalls, cuts off, redirects, forgets ranges and serves wrong bytes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves `content` at every path; the first part of the path names the misbehaviour."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), FileHandler)
        self.content = content
        self.asked: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.sent = 0
        self.etag = '"one"'
        self.go_on = threading.Event()
        """The kind "held" sends the second half of a file when this is set."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class FileHandler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        turn = self.server.asked[self.path]
        kind = self.path.split("/")[1]
        content = self.server.content
        start = 0
        asked = self.headers.get("Range", "")
        self.server.ranges.append(asked)
        if asked and kind != "no-ranges" and self.headers.get("If-Range") == self.server.etag:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        if kind == "redirect" and turn <= 2:
            self.answer(302, b"", {"Location": self.path if turn == 1 else "/good/file"})
            return
        if kind == "loop":
            self.answer(302, b"", {"Location": self.path})
            return
        if kind == "elsewhere":
            self.answer(302, b"", {"Location": "file:///etc/passwd"})
            return
        if kind == "busy" and turn <= 2:
            self.answer(503, b"", {})
            return
        if kind == "gone":
            self.answer(404, b"not here", {})
            return
        if kind == "wrong":
            content = content[::-1]
        if kind == "wrong-half" and turn == 1:
            content = b"x" * (len(content) // 2) + content[len(content) // 2 :]
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.server.etag)
        if start:
            start += kind == "other-part"
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if kind in ("cut", "no-ranges", "wrong-half", "other-part") and turn <= 3:
            body = body[: max(1, len(body) // 3)]
        elif kind == "held":
            half = len(body) // 2
            self.write(body[:half])
            self.server.go_on.wait(60)
            self.write(body[half:])
            return
        elif kind == "stall" and turn == 1:
            self.write(body[: len(body) // 2])
            time.sleep(1.5)
            self.close_connection = True
            return
        self.write(body)
        if kind in ("cut", "no-ranges", "wrong-half", "other-part") and turn <= 3:
            self.close_connection = True

    def write(self, body: bytes) -> None:
        try:
            self.wfile.write(body)
            self.wfile.flush()
            self.server.sent += len(body)
        except OSError:
            pass

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """A running server on a free port."""
    with FileServer(content) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
