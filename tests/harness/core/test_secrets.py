"""No secret is in anything that a run writes or prints, whatever an endpoint repeats: keys, and credentials in URLs."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.core.files import dump_row, write_json
from harness.core.redaction import HIDDEN, blank, quieten, redact, take_apart, without_credentials
from harness.core.terminal import plain, printable
from harness.judging.settings import OpenAIJudgeSettings
from harness.remote.endpoint import KEY_VARIABLE
from harness.serving.openai import OpenAISettings
from tests.chaos.faults import KEY, Fault, error, faulty
from tests.harness.serving.fake_vision import small_pope
from tests.tiny import tiny_photograph

PASSWORD, PARAMETER = "correct-horse-7", "battery-staple-9"
BASIC = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
SECRETS = (KEY, KEY[:12], KEY[-12:], PASSWORD, PARAMETER, BASIC)
ECHO = f"Authorization: Basic {BASIC} me:{PASSWORD} key={PARAMETER} {KEY} Bearer {KEY[:20]}..."
REPEATED: dict[str, Fault] = {
    "400": Fault(error(f"bad request: {ECHO}"), status=400, times=0),
    "401": Fault(error(f"Incorrect API key provided: {ECHO}"), status=401, times=0),
    "500": Fault(error(ECHO), status=500, times=0),
    "as a text": Fault(ECHO.encode(), status=400, times=0),
    "billing": Fault(error(f"billing: {ECHO}"), status=402, times=0),
    "redirected": Fault(b"", status=302, times=0),
    "in the answer": Fault(
        {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": f"Yes. Rating: 4. {KEY} {BASIC}"}}]},
        over=True,
        times=0,
    ),
    "in the refusal": Fault(
        {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": None, "refusal": ECHO}}]},
        over=True,
        times=0,
    ),
    "in the model's name": Fault({"model": f"judge-{KEY}"}, over=True, times=0),
    "a good endpoint": Fault(times=-1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A POPE of four questions and a MMHal of eight, which needs a judge."""
    folder = small_pope(tmp_path_factory.mktemp("secrets"), images=1)
    images = folder / "data" / "mmhal" / "images"
    images.mkdir(parents=True)
    rows = []
    for number in range(8):
        tiny_photograph(images / f"{number}.png", number)
        known = {"question": f"What, {number}?", "gt_answer": "A dog.", "image_content": ["dog"]}
        about = {"question_type": "attribute", "question_topic": "x", "image_id": str(number)}
        rows.append({"image_src": f"http://x/{number}.png"} | known | about)
    (folder / "data" / "mmhal" / "response_template.json").write_text(json.dumps(rows))
    return folder


def evaluate(folder: Path, url: str, suite: str, *more: str) -> subprocess.CompletedProcess[str]:
    address = url.replace("http://", f"http://me:{PASSWORD}@") + f"?api_key={PARAMETER}&api-version=2"
    arguments = ["eval", "--endpoint", address, "--model", "judge", "--data", "data", "--suite", suite]
    arguments += ["--max-unscored", "1", "--set", "backend.attempts=1", "--debug", *more]
    if suite == "mmhal":
        arguments += [
            "--judge",
            "openai",
            "--judge-url",
            address,
            "--judge-model",
            "judge",
            "--set",
            "judge.attempts=1",
        ]
    environment = {KEY_VARIABLE: KEY, "HARNESS_CACHE": str(folder / "cache"), "OPENAI_LOG": "debug", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def leaks(folder: Path, done: subprocess.CompletedProcess[str]) -> Iterator[str]:
    """Where a secret is: in a file's name or content, in the output."""
    for name, text in (("standard output", done.stdout), ("standard error", done.stderr)):
        joined = "".join(text.split())  # a line may have been folded in the middle of a secret
        yield from (f"{one} in {name}" for one in SECRETS if one in text or one in joined)
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        yield from (
            f"{one} in {path}" for one in SECRETS if one.encode() in content or one in str(path.relative_to(folder))
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", REPEATED)
def test_a_run_shows_no_secret(folder: Path, name: str) -> None:
    with (
        faulty(Fault(times=-1)) as elsewhere,
        faulty(REPEATED[name], f"http://me:{PASSWORD}@elsewhere/{KEY}") as server,
    ):
        done = evaluate(folder, server.url, "pope", "--results", f"results-{name.replace(' ', '-')}")
        assert server.asked, done.stderr
        # The credentials are sent, and in the ways that they were named in.
        assert server.headers[0]["authorization"] == f"Basic {BASIC}" and f"api_key={PARAMETER}" in server.paths[0]
        assert not elsewhere.asked
    assert not list(leaks(folder, done))
    assert "this is a defect" not in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["400", "in the answer", "a good endpoint"])
def test_a_judge_shows_no_secret(folder: Path, name: str) -> None:
    with faulty(REPEATED["a good endpoint"]) as server:
        results = ("--results", f"judged-{name.replace(' ', '-')}")
        done = evaluate(folder, server.url, "mmhal", *results)
        assert done.returncode == 0, done.stderr
        [scores] = (folder / results[1]).glob("judge/evals/mmhal@data/scores-*.json")
        record = json.loads(scores.read_text())
        assert record["judge"]["base_url"] == f"{server.url}?api-version=2"
        assert record["serving"]["settings"]["endpoints"] == [f"{server.url}?api-version=2"]
        server.fault = REPEATED[name]
        done = evaluate(folder, server.url, "mmhal", *results, "--set", "judge.temperature=0.1", "--judge-votes", "2")
    assert not list(leaks(folder, done))


def test_what_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert blank(f"a {KEY} b") == f"a {HIDDEN} b"
    assert blank(f"cut: {KEY[:15]}") == f"cut: {HIDDEN}" and blank(f"{KEY[-11:]} and {KEY}") == f"{HIDDEN} and {HIDDEN}"
    assert redact("http://a:b@host/v1?api_key=abc&x=1") == f"http://{HIDDEN}@host/v1?api_key={HIDDEN}&x=1"
    assert redact('{"Authorization": "Bearer abcdef"}') == f'{{"Authorization": "Bearer {HIDDEN}"}}'
    for text in (
        "a dog at 10:30",
        "mail me@host or see http://host",
        "the key=value pairs",
        "a token of love; keys: 3",
    ):
        assert redact(text) == text
    # A word that stands for no key is blanked nowhere: answers hold such words, and are scored.
    for word in ("EMPTY", "none", "placeholder", "x"):
        monkeypatch.setenv(KEY_VARIABLE, word)
        assert redact(f"an {word} room, {word}") == f"an {word} room, {word}"


def test_every_door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    caught = HarnessError(f"a {KEY}", where=f"http://me:pw@host {KEY}", remedy=KEY)
    assert KEY not in f"{caught}{caught.problem}{caught.where}{caught.remedy}" and "me:pw" not in str(caught.where)
    write_json(tmp_path / "a.json", {"u": f'http://me:pw@host/?key=a"b\\{KEY}', KEY: [KEY, 1.5, None]})
    kept = json.loads((tmp_path / "a.json").read_text())
    assert kept == {"u": f'http://{HIDDEN}@host/?key={HIDDEN}"b\\{HIDDEN}', HIDDEN: [HIDDEN, 1.5, None]}
    assert json.loads(dump_row({"a": f'"{KEY}\n', "b": "http://me:pw@host"})) == {
        "a": f'"{HIDDEN}\n',
        "b": "http://me:pw@host",
    }
    assert KEY not in plain(f"x {KEY}") + printable(f"x {KEY}")
    quieten("some.client")
    logging.getLogger("some.client").warning("GET %s", f"http://me:pw@host/?token={KEY}")
    assert caplog.messages == [f"GET http://{HIDDEN}@host/?token={HIDDEN}"]


def test_settings_are_written_without_credentials() -> None:
    url = f"https://me:{PASSWORD}@host:8/v1?api_key={PARAMETER}&api-version=2"
    for settings in (OpenAIJudgeSettings(base_url=url), OpenAISettings(endpoints=(url,))):
        written = settings.model_dump_json() + json.dumps(settings.model_dump()) + repr(settings) + str(settings)
        assert "host:8/v1?api-version=2" in written and not [one for one in SECRETS if one in written]
    assert without_credentials("http://host/v1") == "http://host/v1"
    assert take_apart(url) == ("https://host:8/v1", {"api_key": PARAMETER, "api-version": "2"}, f"Basic {BASIC}")
