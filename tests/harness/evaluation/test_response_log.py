"""The response log: nothing is lost, nothing is mixed up, nothing is taken that is not complete."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.core.errors import BadInputError, HarnessError
from harness.core.types import ImageRef, Item
from harness.evaluation.responses import ResponseLog, request_hash
from harness.serving.base import Completion, Sampling

ANSWER = Completion("x", "base", "A dog.", "stop", 10, 3)


def test_answers_are_found_again_by_item_and_request(tmp_path: Path) -> None:
    with ResponseLog(tmp_path) as log:
        log.add("1", "hash", ANSWER, "vllm", "weights")
    with ResponseLog(tmp_path) as log:
        found = log.get("1", "hash")
        assert found is not None and (found.text, found.completion_tokens) == ("A dog.", 3)
        assert log.get("1", "another") is None
        assert log.get("2", "hash") is None


def test_a_torn_last_line_is_cut_off_and_asked_again(tmp_path: Path) -> None:
    with ResponseLog(tmp_path) as log:
        log.add("1", "a", ANSWER, "vllm", "weights")
        log.add("2", "b", ANSWER, "vllm", "weights")
    path = tmp_path / "responses.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with ResponseLog(tmp_path) as log:
        assert log.get("1", "a") is not None
        assert log.get("2", "b") is None
        log.add("2", "b", ANSWER, "vllm", "weights")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["item"] for row in rows] == ["1", "2"]


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "responses.jsonl").write_text('{"item": "1"\n{"item": "2", "request": "b"}\n')
    with pytest.raises(BadInputError, match="damaged") as error, ResponseLog(tmp_path):
        pass
    assert str(error.value.where).endswith(":1")


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    code = "import sys, pathlib; from harness.evaluation.responses import ResponseLog\nResponseLog(pathlib.Path(sys.argv[1])).__enter__()"
    with ResponseLog(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "another process" in done.stderr


def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from harness.evaluation.responses import ResponseLog\n"
        "from harness.serving.base import Completion\n"
        "log = ResponseLog(Path(sys.argv[1])).__enter__()\n"
        "for n in range(200): log.add(str(n), 'h', Completion('x', 'base', 'text', 'stop', 1, 1), 'b', 'c')\n"
        "print('written', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() == "written"
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with ResponseLog(tmp_path) as log:
                kept = sum(log.get(str(n), "h") is not None for n in range(200))
            break
        except HarnessError:  # the lock of a killed process goes with it
            time.sleep(0.1)
    assert kept >= 192  # all but the last, unsynced batch of at most 64


@pytest.mark.parametrize("change", ["prompt", "image", "sampling", "checkpoint", "template", "backend"])
def test_everything_that_decides_an_answer_is_in_its_hash(change: str) -> None:
    values = {"image": "i", "sampling": Sampling(), "checkpoint": "c", "template": "t", "backend": "b"}
    item = Item("1", "p", ImageRef(data=b"x"), "g")
    before = request_hash(item, **values)  # type: ignore[arg-type]
    if change == "prompt":
        item = Item("1", "q", ImageRef(data=b"x"), "g")
    else:
        values[change] = Sampling(max_new_tokens=7) if change == "sampling" else "other"
    assert request_hash(item, **values) != before  # type: ignore[arg-type]
    assert request_hash(Item("2", item.prompt, item.image, "h"), **values) == request_hash(item, **values)  # type: ignore[arg-type]


def test_a_record_is_complete(tmp_path: Path) -> None:
    before = datetime.datetime.now(datetime.UTC)
    with ResponseLog(tmp_path) as log:
        log.add("1", "hash", dataclasses.replace(ANSWER, model="gpt-x"), "openai", "weights")
    [row] = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    time_ = datetime.datetime.fromisoformat(row.pop("time"))
    assert before - datetime.timedelta(seconds=1) <= time_ <= datetime.datetime.now(datetime.UTC)
    assert row == {
        "item": "1",
        "request": "hash",
        "text": "A dog.",
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "backend": "openai",
        "checkpoint": "weights",
        "model": "gpt-x",
    }


@pytest.mark.parametrize("text", ["half a \ud83d", "two\nlines\r\nand \u2028 a third", "\x00", '"}', ""])
def test_any_text_is_kept_as_it_is(text: str, tmp_path: Path) -> None:
    with ResponseLog(tmp_path) as log:
        log.add("1", "a", dataclasses.replace(ANSWER, text=text), "b", "c")
        log.add("2", "b", ANSWER, "b", "c")
    with ResponseLog(tmp_path) as log:
        one, two = log.get("1", "a"), log.get("2", "b")
        assert one is not None and two is not None and (one.text, two.text) == (text, "A dog.")


def test_answers_are_synced_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    path = tmp_path / "responses.jsonl"
    real = os.fsync

    def fsync(handle: int) -> None:
        real(handle)
        synced.append(path.read_bytes().count(b"\n"))

    monkeypatch.setattr(os, "fsync", fsync)
    with ResponseLog(tmp_path) as log:
        for number in range(200):
            log.add(str(number), "h", ANSWER, "b", "c")
    assert synced == [64, 128, 192, 200]


@pytest.mark.parametrize("keep", [1, 20, -1])
def test_a_line_torn_anywhere_is_redone(keep: int, tmp_path: Path) -> None:
    with ResponseLog(tmp_path) as log:
        log.add("1", "a", ANSWER, "b", "c")
        log.add("2", "b", dataclasses.replace(ANSWER, text="ü" * 50), "b", "c")
    path = tmp_path / "responses.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:keep])
    assert ("2", "b") not in ResponseLog.peek(tmp_path) or keep == -1
    with ResponseLog(tmp_path) as log:
        assert log.get("1", "a") is not None and log.get("2", "b") is None
    assert path.read_bytes() == first
