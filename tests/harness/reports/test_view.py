"""`harness view` serves the report to this machine, and shows what is new while jobs run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import BadInputError
from harness.core.files import write_jsonl
from harness.reports.live import LiveReport, ViewServer
from tests.harness.reports.test_report import data_folder, make_run, shows, visible_texts


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ViewServer]:
    """A view of an empty folder, which looks at it every time."""
    (tmp_path / "results").mkdir()
    with ViewServer(LiveReport(tmp_path / "results", every_s=0)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def get(server: ViewServer, path: str = "", **headers: str) -> str:
    request = urllib.request.Request(server.url + path, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


def test_the_page_follows_the_folder(server: ViewServer, tmp_path: Path) -> None:
    results, data = tmp_path / "results", data_folder(tmp_path / "data")
    empty = get(server)
    assert "there is no complete run" in empty and "refresh" in empty
    make_run(results, data, "base", {}, "base")
    first, state = get(server), get(server, "state")
    assert f'data-state="{state}"' in first and "connect-src &#39;self&#39;" in first
    assert '"run":"base"' in first and "of running during training" not in first
    log = [{"stage": "all", "step": step, "loss": 1 / step, "margin": step / 10} for step in range(1, 6)]
    write_jsonl(results / "running" / "train_log.jsonl", log)
    assert get(server, "state") != state
    page = get(server)
    assert "Loss of running during training" in page and "running: not complete" in page
    write_jsonl(
        results / "running" / "train_log.jsonl", [*log, {"stage": "all", "step": 6, "loss": 0.1, "margin": 9.0}]
    )
    assert get(server) != page and "Loss of running during training" in get(server)


LOG = [{"stage": "all", "step": step, "loss": 1 / step, "margin": step / 10} for step in range(1, 6)]


def test_the_first_training_and_the_first_evaluation_are_shown(server: ViewServer, tmp_path: Path) -> None:
    results, data = tmp_path / "results", data_folder(tmp_path / "data")
    write_jsonl(results / "first" / "train_log.jsonl", LOG)
    page = get(server)
    assert "Loss of first during training" in page and "Nothing was scored yet" in page and "data-state" in page
    run = make_run(results, data, "base", {}, "base")
    shutil.rmtree(run.path / "evals")
    assert "Loss of first during training" in get(server), "a run without scores hides what is running"
    write_jsonl(run.path / "evals" / "halbench@here" / "responses.jsonl", [answer("1", "First words.")])
    page = get(server)
    assert '"run":"base","text":"First words.","verdict":"unscored"' in page and "Nothing was scored yet" in page


def test_diagnostics_that_are_added_to_a_run_change_the_page(server: ViewServer, tmp_path: Path) -> None:
    run = make_run(tmp_path / "results", data_folder(tmp_path / "data"), "base", {}, "base")
    states = [get(server, "state")]
    for name in ("evals/halbench@here/noise/500/scores.json", "balance/held.json"):
        (run.path / name).parent.mkdir(parents=True)
        (run.path / name).write_text("{}")
        states.append(get(server, "state"))
    assert len(set(states)) == 3


def answer(item: str, text: str) -> dict[str, Any]:
    return {
        **{"item": item, "request": "r", "text": text, "finish_reason": "stop"},
        **{"prompt_tokens": None, "completion_tokens": None},
    }


def test_answers_appear_while_they_are_generated(server: ViewServer, tmp_path: Path) -> None:
    results, data = tmp_path / "results", data_folder(tmp_path / "data")
    scored = make_run(results, data, "base", {}, "base")
    [rows] = scored.path.glob("evals/halbench@here/items*.jsonl")
    item = json.loads(rows.read_text().splitlines()[0])["item"]
    log = results / "going" / "evals" / "halbench@here" / "responses.jsonl"
    before = get(server, "state")
    write_jsonl(log, [answer(item, "First words.")])
    assert get(server, "state") != before
    page = get(server)
    assert '"run":"going","text":"First words.","verdict":"unscored"' in page and "the suite is being answered" in page
    charts = page[page.index('id="charts"') : page.index('id="provenance"')]
    assert "going" not in charts, "no chart counts what has no score"
    with log.open("a") as file:
        file.write(json.dumps(answer("other", "Second words.")) + "\n" + '{"item": "half')
    page = get(server)
    assert "First words." in page and "Second words." in page and '"half' not in page
    shutil.copy(rows, log.parent / rows.name)  # scored: its rows are those of its scores
    assert "Second words." not in get(server)


def test_only_this_machine_is_answered(server: ViewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    for path, headers, code in (
        ("", {"Host": "elsewhere.org"}, 403),
        ("../etc/passwd", {}, 404),
        ("results/", {}, 404),
    ):
        with pytest.raises(urllib.error.HTTPError) as raised:
            get(server, path, **headers)
        assert raised.value.code == code
    with pytest.raises(BadInputError, match=r"the port \d+ cannot be used"):
        ViewServer(server.report, server.server_address[1])


def test_a_page_is_not_drawn_more_often_than_it_may(tmp_path: Path) -> None:
    report = LiveReport(tmp_path, every_s=60)
    state = report.state()
    write_jsonl(tmp_path / "new" / "train_log.jsonl", [])
    assert report.state() == state
    assert LiveReport(tmp_path, every_s=60).state() != state


@pytest.mark.slow
def test_new_scores_appear_in_a_browser(browser: Any, server: ViewServer, tmp_path: Path) -> None:
    results, data = tmp_path / "results", data_folder(tmp_path / "data")
    make_run(results, data, "base", {}, "base")
    browser.get(server.url + "#?search=Describe+1")
    shows(browser, "11 of 72 samples")
    make_run(results, data, "aligned", {1: "A horse."})
    deadline = time.monotonic() + 60
    while len(browser.find_elements("css selector", ".sample:first-child .answer")) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert visible_texts(browser, ".sample:first-child .answer h4 span:first-child") == ["base", "aligned"]
    shows(browser, "11 of 72 samples")  # the settings are kept
    errors = [
        entry
        for entry in browser.get_log("browser")
        if entry["level"] == "SEVERE" and "favicon" not in entry["message"]
    ]
    assert not errors, errors


@pytest.mark.claims("view --port", "view --results")
def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    command = [sys.executable, "-m", "harness", "view", "--port", "0", "--results", "there"]
    # A job in a shell's background ignores the signal, and so would what it starts.
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    address = line.split()[2]
    assert line.startswith("there at http://127.0.0.1:") and ":7860" not in address
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert b"no complete run" in answer.read()
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == "ended\n" and process.wait(30) == 0
