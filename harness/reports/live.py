"""`harness view`: the report of a results folder, served on this machine's loopback address and drawn again when something is new."""

from __future__ import annotations

import logging
import threading
import time
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.core.errors import BadInputError, HarnessError
from harness.core.files import sha256_json
from harness.core.terminal import plain
from harness.reports.page import write_report
from harness.reports.unscored import answering
from harness.runs.folders import MANIFEST, Run, survey

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
EVERY_S = 10.0
"""Seconds for which a page is not drawn again, because a training log grows with every step, and a response log with every
answer."""
_ALL = 1 << 60
_SHOWN = (
    *(MANIFEST, "train_log.jsonl", "balance/*.json"),
    *("evals/*/scores*.json*", "evals/*/items*.jsonl", "evals/*/responses.jsonl", "evals/*/noise/*/scores*.json"),
)
"""Files of a run whose changes change the page."""


class LiveReport:
    """The page of a results folder, and the state of the files that it shows. Safe to use from several threads."""

    def __init__(self, results: Path, every_s: float = EVERY_S) -> None:
        self.results, self.every_s = results, every_s
        self._lock = threading.Lock()
        self._state, self._looked = "", float("-inf")
        self._drawn: tuple[str, bytes] | None = None

    def state(self) -> str:
        """A hash of names, sizes and times of the files, at most `every_s` old."""
        with self._lock:
            return self._look()

    def page(self) -> bytes:
        """The page of the present state, drawn if there is none yet."""
        with self._lock:
            state = self._look()
            if self._drawn is None or self._drawn[0] != state:
                self._drawn = state, self._draw(state)
            return self._drawn[1]

    def _look(self) -> str:
        if time.monotonic() - self._looked >= self.every_s:
            facts = []
            for pattern in _SHOWN:
                for path in sorted(self.results.glob(f"*/{pattern}")):
                    try:
                        about = path.stat()
                    except FileNotFoundError:  # a run was removed just now
                        continue
                    facts.append((str(path), about.st_size, about.st_mtime_ns))
            self._state, self._looked = sha256_json(facts), time.monotonic()
        return self._state

    def _draw(self, state: str) -> bytes:
        try:
            runs, left_out = survey([self.results])
            logs = sorted(self.results.glob("*/train_log.jsonl"))
            running = [Run(path.parent, None) for path in logs if not (path.parent / MANIFEST).exists()]
            with TemporaryDirectory() as folder:
                page = Path(folder) / "report.html"
                unscored = answering(self.results)
                write_report(runs, page, most=_ALL, left_out=left_out, live=state, running=running, unscored=unscored)
                return page.read_bytes()
        except HarnessError as error:  # nothing is there yet, or a file is just being written
            logger.info(f"nothing to show yet: {error.problem}")
            words = escape(plain(f"{error.problem}. {error.remedy or ''}"))
            again = f'<meta http-equiv="refresh" content="{max(1, round(self.every_s))}">'
            return f'<!doctype html><html lang="en"><title>Nothing yet</title>{again}<p>{words}</p></html>'.encode()


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer

    def do_GET(self) -> None:
        """The page at /, its state at /state."""
        if self.headers.get("Host") not in self.server.names:  # another site's name that leads to this machine
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path == "/":
            self._answer(self.server.report.page(), "text/html; charset=utf-8")
        elif self.path == "/state":
            self._answer(self.server.report.state().encode(), "text/plain")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log requests as notes; the base class writes them to standard error."""
        logger.debug(format % arguments)


class ViewServer(ThreadingHTTPServer):
    """Serves a live report to this machine only.

    Args:
        report: what is served.
        port: of the loopback address; 0 takes a free one.

    Raises:
        BadInputError: the port cannot be used.
    """

    daemon_threads = True

    def __init__(self, report: LiveReport, port: int = 0) -> None:
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise BadInputError(
                f"the port {port} cannot be used: {error.strerror}",
                remedy="choose another: --port N, or 0 for a free one",
            ) from None
        self.report = report
        self.names = {f"{name}:{self.server_address[1]}" for name in (HOST, "localhost")}

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{HOST}:{self.server_address[1]}/"
