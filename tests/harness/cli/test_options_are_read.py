"""No option is dropped in silence: what nothing reads is refused or named, for every suite, backend and method that comes with us.

A command is carried out without the option and with it, from the same state. If exit code, output, files and questions asked are the
same and the option is not named, nobody has read it. Options come from the commands, suites and backends from the registry.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.core import registry
from tests.commands import leaves, parameters, run_here
from tests.tiny import tiny_llava

_IMAGE = re.compile(r'"(data:image/[^"]+)"')
_TIMES = re.compile(r'"(seconds|finished|started|when|time)": ?("[^"]*"|[0-9.e+-]+)')


def _rating(asked: str) -> str:
    """A judge's reply in the form that a suite's prompt asks for."""
    forms = {
        "Reply with the number only": "0.5",
        "[End of Assistant": "8 6\nWhy not.",
        "Reply with one word": "incorrect",
    }
    return next((reply for mark, reply in forms.items() if mark in asked), "Rating: 4")


class _Endpoint(ThreadingHTTPServer):
    """Answers questions about images with the same words, and everything else with a rating; keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.refused = ""
        """An image that is against the rules, as its URL; so that something is left without a verdict."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: _Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        body, sees = json.loads(text), "image_url" in text
        self.server.asked[text] += 1
        if self.server.refused in _IMAGE.findall(text):
            self.send(400, {"error": {"message": "against the rules", "code": "content_filter"}})
            return
        asked = json.dumps(body["messages"]).encode()
        rating = "I would rather not say." if hashlib.sha256(asked).digest()[0] % 3 == 1 else _rating(text)
        text = "Yes, there is a dog beside a chair." if sees else rating
        message = {"role": "assistant", "content": text}
        answer = {
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
        }  # fmt: skip
        self.send(200, answer)

    def send(self, status: int, answer: Any) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def endpoints() -> Iterator[list[_Endpoint]]:
    """Two of them."""
    running = [_Endpoint(), _Endpoint()]
    for server in running:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield running
    for server in running:
        server.shutdown()


@dataclass
class Road:
    """A command as it is carried out without the option in question, in a folder that is the same each time.

    Attributes:
        command: its name.
        line: its arguments.
        state: the folder that it begins in.
        work: where it is done.
        servers: whom it may ask.
        tried: of every option that it takes, another value than the line's; None of a flag.
    """

    command: str
    line: list[str]
    state: Path
    work: Path
    servers: list[_Endpoint]
    tried: dict[str, str | None] = field(default_factory=dict)

    def outcome(self, *more: str) -> tuple[dict[str, Any], str]:
        """(all that can be seen of one run, what it said)."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.state, self.work, symlinks=True)
        for server in self.servers:
            server.asked.clear()
        code, out, said = run_here([*self.command.split(), *self.line, *more], self.work)
        files = {
            str(path.relative_to(self.work)): sorted(_TIMES.sub("", path.read_text(errors="replace")).splitlines())
            for path in self.work.rglob("*")
            if path.is_file() and "cache" not in path.parts and not path.name.startswith(".")
        }  # sorted: answers are written as they come; hidden: locks, with the time
        asked = [dict(server.asked) for server in self.servers]
        return {"code": code, "out": _TIMES.sub("", out), "files": files, "asked": asked}, said

    def dropped(self) -> list[str]:
        """The options that make no difference and are named by nobody; of `--resume` its help says that it makes none."""
        [command] = [command for path, command in leaves() if " ".join(path) == self.command]
        options = [
            option
            for option in parameters(command)
            if option.opts[0].startswith("--")
            and option.name != "help"
            and "this is the default" not in (option.help or "")
        ]
        unknown = {option.name for option in options} - set(self.tried)
        assert not unknown, f"a value to try is needed for {sorted(unknown)}: add it to this test"
        (before, said), (again, _) = self.outcome(), self.outcome()
        assert not (unequal := _unequal(before, again)), f"the same twice is not the same: {unequal}"
        assert before["code"] == 0, said
        unread = []
        for option in options:
            value = self.tried[option.name]
            after, said = self.outcome(option.opts[0], *([] if value is None else [value]))
            assert "defect" not in said, said
            if not _unequal(before, after) and option.opts[0] not in said:
                unread.append(option.opts[0])
        return unread


def _unequal(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What differs, by key, file and line."""
    differences = [
        f"{key}: {first[key]!r:.300} {other[key]!r:.300}"
        for key in ("code", "out", "asked")
        if first[key] != other[key]
    ]
    for name in first["files"].keys() | other["files"].keys():
        lines = set(first["files"].get(name, [])) ^ set(other["files"].get(name, []))
        differences += [f"{name}: {line:.300}" for line in lines]
    return differences


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket world's benchmarks, and POPE's questions under the names of its sisters."""
    from harness.worlds.pocket.formats import write_benchmarks

    folder = tmp_path_factory.mktemp("benchmarks") / "data"
    write_benchmarks(0, "validation", folder)
    shutil.copytree(folder / "halbench" / "images", folder / "chair" / "images")
    for sister in ("aokvqa", "gqa"):
        shutil.copytree(folder / "pope", folder / f"pope-{sister}")
        for path in (folder / f"pope-{sister}").glob("coco_*.json"):
            path.rename(path.with_name(path.name.replace("coco", sister)))
    shutil.copytree(folder, folder.with_name("more"))
    return folder.parent


@pytest.fixture
def state(data: Path, endpoints: list[_Endpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to begin in. Its cache lies in it, so that a judge's replies are kept for nobody else."""
    monkeypatch.setenv("OPENAI_API_KEY", "x" * 20)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoints[0].url)
    monkeypatch.setenv("HARNESS_CACHE", "cache")
    endpoints[0].refused = ""
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "synonyms.txt").write_text("dog, puppy\nchair, seat\n")
    for name in ("data", "more"):
        (folder / name).symlink_to(data / name)
    return folder


def begin(state: Path, *line: str) -> None:
    """Do something in the folder to begin in."""
    code, _, said = run_here([*line], state)
    assert code == 0, said


def refuse_one(state: Path, server: _Endpoint, *line: str) -> None:
    """From now on the endpoint refuses one of the images that this line asks about."""
    server.refused = ""
    server.asked.clear()
    trial = state.with_name("trial")
    shutil.copytree(state, trial, symlinks=True)
    code, _, said = run_here([*line], trial)
    assert code == 0, said
    asked = [found[0] for text in server.asked if (found := _IMAGE.findall(text))]
    server.refused = max(asked, key=lambda image: (len(image), image))  # not the small one that the backend tries first
    shutil.rmtree(trial)


def scoring(servers: list[_Endpoint]) -> dict[str, str | None]:
    """Values to try of what all commands have that score with a judge."""
    return {
        "suite": "none", "run": "none", "base": None, "data": "more", "judge": "pocket-truth", "judge_model": "another",
        "judge_url": servers[1].url, "judge_votes": "2", "judge_price": "3,4", "max_cost": "0", "extractor": "llm",
        "synonyms": "synonyms.txt", "matched_words": "3", "similarity": "exact", "scoring": "match", "settings": "judge.asks=2",
        "max_unscored": "0", "noise": "blank", "dry_run": None, "results": "elsewhere", "as_json": None,
    }  # fmt: skip


def answering(servers: list[_Endpoint]) -> dict[str, str | None]:
    """Values to try of what `eval` has."""
    return scoring(servers) | {
        "run": "one", "model": "another", "backend": "none", "endpoint": servers[1].url, "settings": "sampling.max_new_tokens=7",
        "limit": "2", "shard": "1/2", "repeat": "2", "resume": None, "overwrite": None, "verify": None,
    }  # fmt: skip


def judged(server: _Endpoint) -> list[str]:
    return ["--judge", "openai", "--judge-model", "judge", "--judge-url", server.url, "--judge-price", "1,1"]


ALIKE = ("pope-aokvqa", "pope-gqa", "mme", "mmstar", "llava-bench", "mm-vet")
"""Suites without an option or a setting that others do not have."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "suite",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if name in ALIKE else [])
        for name in registry.entries("benchmarks")
    ],
)
def test_of_eval_at_an_endpoint(suite: str, state: Path, endpoints: list[_Endpoint], tmp_path: Path) -> None:
    line = ["--suite", suite, "--endpoint", endpoints[0].url, "--model", "seer", "--data", "data"]
    line += [
        "--max-unscored",
        "1",
        "--limit",
        "24" if suite.startswith(("amber", "pope")) else "9" if suite == "llava-bench" else "6",
    ]
    if registry.load("benchmarks", suite)().needs_judge:
        line += judged(endpoints[0])
    begin(state, "eval", *line, "--limit", "3")  # some answers are there, and some are not
    refuse_one(state, endpoints[0], "eval", *line)
    assert Road("eval", line, state, tmp_path / "work", endpoints, answering(endpoints)).dropped() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=[pytest.mark.exhaustive, pytest.mark.timeout(3600)] if name == "vllm" else [])
        for name in registry.entries("backends")
        if not registry.load("backends", name).remote and registry.load("backends", name).missing() is None
    ],
)
def test_of_eval_with_weights(backend: str, state: Path, endpoints: list[_Endpoint], tmp_path: Path) -> None:
    tiny_llava(state / "base")
    line = ["--suite", "halbench", "--backend", backend, "--model", "./base", "--data", "data", "--limit", "4"]
    line += ["--set", "sampling.max_new_tokens=2"]
    begin(state, "eval", *line, "--limit", "2")
    values = answering(endpoints) | {"settings": "sampling.max_new_tokens=3", "max_unscored": "nan"}
    assert Road("eval", line, state, tmp_path / "work", endpoints, values).dropped() == []


@pytest.mark.slow
def test_of_rejudge(state: Path, endpoints: list[_Endpoint], tmp_path: Path) -> None:
    answers = ["--suite", "mmhal", "--endpoint", endpoints[0].url, "--model", "seer", "--data", "data", "--limit", "6"]
    begin(state, "eval", *answers, "--judge", "pocket-truth")
    line = ["--run", "seer", "--data", "data", "--max-unscored", "1", *judged(endpoints[0])]
    assert Road("rejudge", line, state, tmp_path / "work", endpoints, scoring(endpoints)).dropped() == []


@pytest.mark.slow
def test_of_merge(state: Path, endpoints: list[_Endpoint], tmp_path: Path) -> None:
    answers = ["--suite", "mmhal", "--endpoint", endpoints[0].url, "--model", "seer", "--data", "data", "--limit", "6"]
    refuse_one(state, endpoints[0], "eval", *answers, "--shard", "1/2")
    for shard in ("1/2", "2/2"):
        begin(state, "eval", *answers, "--shard", shard, "--max-unscored", "1")
    line = ["seer", "--suite", "mmhal", "--data", "data", "--max-unscored", "1", *judged(endpoints[0])]
    assert Road("merge", line, state, tmp_path / "work", endpoints, scoring(endpoints)).dropped() == []


@pytest.mark.slow
def test_of_calibrate(state: Path, endpoints: list[_Endpoint], tmp_path: Path) -> None:
    rows = [{"item": str(n), "prompt": f"Rate this, {n}.", "rating": n % 6} for n in range(6)]
    (state / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["--reference", "rated.jsonl", *judged(endpoints[0])]
    values = scoring(endpoints) | {"reference": "none.jsonl", "judge_votes": "3", "settings": "judge.temperature=0.5"}
    assert Road("calibrate", line, state, tmp_path / "work", endpoints, values).dropped() == []


def test_of_eval_for_a_shard(state: Path, endpoints: list[_Endpoint], tmp_path: Path) -> None:
    """Nothing is scored: what the scoring reads is refused; `--max-unscored` is about questions that the endpoint refuses, too."""
    line = ["--suite", "halbench", "--endpoint", endpoints[0].url, "--model", "seer", "--data", "data"]
    line += ["--max-unscored", "1", "--limit", "6", "--shard", "1/2"]
    begin(state, "eval", *line, "--limit", "4")
    refuse_one(state, endpoints[0], "eval", *line)
    values = answering(endpoints) | {"shard": "2/2"}
    assert Road("eval", line, state, tmp_path / "work", endpoints, values).dropped() == []


def test_an_endpoint_that_refuses_every_question(state: Path, endpoints: list[_Endpoint]) -> None:
    line = ["eval", "--suite", "pope", "--endpoint", endpoints[0].url, "--model", "seer", "--data", "data"]
    line += ["--max-unscored", "1", "--limit", "3"]  # of one image
    refuse_one(state, endpoints[0], *line)
    for more in ([], ["--shard", "1/1"]):
        code, _, said = run_here([*line, *more], state)
        assert code == 1 and "requests were refused, so there is nothing to score; first:" in said and "rules" in said
