"""A local model hub: as much of its protocol as an upload takes, and every refusal that people meet."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_this_token_may_write"
READER = "hf_this_token_may_only_read"
COMMIT = "0123456789" * 4


class HubServer(ThreadingHTTPServer):
    """Keeps what it is sent: `stored[repository, branch][path]`, whole files, their hashes checked as the real one checks them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.private: dict[str, bool] = {}
        self.stored: dict[tuple[str, str], dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.asked: list[str] = []
        self.offered: dict[tuple[str, str], dict[str, tuple[int, bytes]]] = {}
        """("models" or "datasets", repository) -> file -> (the size that is said of it, its bytes)."""
        self.sent: list[str] = []
        """Files that were asked for."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(f"GET {self.path}")
        if self.offered():
            return
        match = re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/?]+).*", self.path)
        if match is None or self.refused():
            self.answer(404, {"error": "not here"}) if match is None else None
        elif match[1] not in self.server.private:
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        else:
            self.answer(200, {"id": match[1], "private": self.server.private[match[1]], "siblings": []})

    def do_HEAD(self) -> None:
        self.server.asked.append(f"HEAD {self.path}")
        if not self.offered():
            self.answer(404, {"error": "not here"})

    def offered(self) -> bool:
        """Answer what a download asks for, of a repository that anybody may read."""
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(/revision/.+)?", path):
            files = self.server.offered.get((match[1], match[2]))
            if files is None:
                return False
            siblings = [{"rfilename": name, "size": size} for name, (size, _) in files.items()]
            self.answer(200, {"id": match[2], "sha": COMMIT, "private": False, "siblings": siblings})
            return True
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/[^/]+", path):
            files = self.server.offered.get((match[1], match[2]))
            if files is None:
                return False
            tree = [
                {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(body).hexdigest()}
                for name, (size, body) in files.items()
            ]
            self.answer(200, tree)
            return True
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            files = self.server.offered.get(("datasets" if match[1] else "models", match[2]), {})
            if match[3] not in files:
                if files:
                    self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
                return bool(files)
            _, body = files[match[3]]
            self.server.sent.append(match[3])
            self.send_response(200)
            etag = hashlib.sha1(body).hexdigest()
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
            return True
        return False

    def do_PUT(self) -> None:
        self.server.asked.append(f"PUT {self.path}")
        body = self.body()
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != oid:
            self.answer(400, {"error": "these bytes have another hash"})
            return
        self.server.objects[oid] = body
        self.answer(200, {})

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path}")
        body = self.body()
        path = self.path.partition("?")[0]
        if self.refused():
            return
        if path == "/api/validate-yaml":
            self.answer(200, {"warnings": [], "errors": []})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif match := re.fullmatch(r"/api/(?:models|datasets)/(.+)/branch/(.+)", path):
            self.server.stored.setdefault((match[1], match[2]), {})
            self.answer(200, {})
        elif re.fullmatch(r"/api/(?:models|datasets)/(.+)/preupload/(.+)", path):
            files = [
                {"path": name["path"], "uploadMode": "lfs" if name["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False, "oid": None}
                for name in json.loads(body)["files"]
            ]  # fmt: skip
            self.answer(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}"}}}
                if item["oid"] not in self.server.objects
                else item
                for item in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/(?:models|datasets)/(.+)/commit/(.+)", path):
            self.commit(match[1], match[2], body)
        else:
            self.answer(404, {"error": "not here"})

    def refused(self) -> bool:
        """Whether the token may not do this; the answer is sent then."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == TOKEN or (token == READER and self.command == "GET"):
            return False
        if token == READER:
            self.answer(403, {"error": 'You don\'t have the rights to create a model under the namespace "team"'})
        else:
            self.answer(401, {"error": "Invalid credentials in Authorization header"})
        return True

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        self.server.private[name] = asked.get("visibility") == "private"
        self.server.stored[name, "main"] = {}
        self.answer(200, {"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def commit(self, name: str, branch: str, body: bytes) -> None:
        kept = self.server.stored[name, branch]
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "header":
                self.server.messages.append(value["summary"])
            elif row["key"] == "file":
                kept[value["path"]] = base64.b64decode(value["content"])
            elif len(self.server.objects.get(value["oid"], b"")) != value["size"]:
                self.answer(400, {"error": f"{value['path']} was not sent before"})
                return
            else:
                kept[value["path"]] = self.server.objects[value["oid"]]
        oid = hashlib.sha1(body).hexdigest()
        self.answer(200, {"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid})

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def hub() -> Iterator[HubServer]:
    """A running hub on a free port."""
    with HubServer() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
