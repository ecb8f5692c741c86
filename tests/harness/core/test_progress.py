"""Progress as a terminal, a pipe and a log file show it."""

import importlib.util
import os
import pty
import re
import subprocess
import sys

import pytest

WORK = """
import time
from harness.core.progress import progress, spinner
with spinner("starting"):
    time.sleep(0.25)
with progress("answering", 1000) as advance:
    for step in range(5):
        advance(200, note=f"loss {step}")
        time.sleep(0.12)
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HARNESS_PROGRESS_SECONDS": "0.1"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr


def test_a_pipe_gets_plain_lines_with_count_rate_and_time_left() -> None:
    lines = run(WORK).splitlines()
    assert lines[0] == "starting: 0 s so far"
    counted = [line for line in lines if line.startswith("answering: ")]
    assert len(counted) >= 4
    moving = r"answering: [\d,]+ of 1,000, [01] s so far, [\d,.]+/s, about \d+ s left \(loss \d\)"
    assert all(re.fullmatch(moving, line) for line in counted[:-1])
    assert re.fullmatch(r"answering: 1,000 of 1,000 in \d s \(loss 4\)", counted[-1])


def test_work_that_does_not_move_is_told_too() -> None:
    lines = run(WORK.replace("advance(200", "advance(0")).splitlines()
    assert "answering: 0 of 1,000, 0 s so far (loss 0)" in lines


def test_work_that_ends_early_says_that_its_total_was_a_limit() -> None:
    lines = run(WORK.replace("1000", "3000")).splitlines()
    assert lines[-2].startswith("answering: 1,000 of 3,000, ")
    assert re.fullmatch(r"answering: 1,000 of at most 3,000 in \d s \(loss 4\)", lines[-1])


def test_work_that_fails_has_no_last_line() -> None:
    code = (
        "from harness.core.progress import progress\n"
        "try:\n    with progress('answering', 9) as advance:\n        advance(3); raise KeyError\nexcept KeyError: pass"
    )
    assert run(code) == ""


@pytest.mark.parametrize("wrong", ["often", "-1", "nan"])
def test_an_interval_that_is_none_is_not_taken(wrong: str) -> None:
    assert run(WORK, HARNESS_PROGRESS_SECONDS=wrong).splitlines() == [
        "answering: 1,000 of 1,000 in 1 s (loss 4)",
    ]


def test_several_threads_count_together() -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from harness.core.progress import progress\n"
        "with progress('judging', None) as advance, ThreadPoolExecutor(8) as pool:\n"
        "    list(pool.map(lambda _: advance(), range(4000)))"
    )
    assert run(code, HARNESS_PROGRESS_SECONDS="60") == "judging: 4,000 in 0 s\n"


@pytest.mark.parametrize(("terminal", "bar"), [("xterm", True), ("dumb", False)])
def test_a_terminal_gets_a_bar_and_a_dumb_one_lines(terminal: str, bar: bool) -> None:
    shown = in_terminal(WORK, terminal)
    assert ("━" in shown and "1000/1000" in shown) is bar
    assert ("so far" in shown) is not bar


def test_a_bar_of_work_that_ends_early_is_full() -> None:
    last = in_terminal(WORK.replace("1000", "3000")).rpartition("answering")[2]
    assert "1000/1000" in last


def test_a_long_note_of_a_spinner_stays_in_its_line() -> None:
    code = (
        "import time\nfrom harness.core.progress import spinner\n"
        "with spinner('running') as note:\n    note('[b]' + 'x' * 300)\n    time.sleep(0.3)"
    )
    shown = in_terminal(code)
    assert "running ([b]xxx" in shown and "x…" in shown
    assert max(len(part) for part in re.findall("x+", shown)) < 80


def in_terminal(code: str, terminal: str = "xterm") -> str:
    """What a program writes to standard error, if that is a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"TERM": terminal, "HARNESS_PROGRESS_SECONDS": "0.1", "COLUMNS": "80"},
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux says so where the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0
    return shown.decode()


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_gets_a_bar_only_with_ipywidgets(widgets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, rich prints a warning in its place."""
    from harness.core import progress

    monkeypatch.setattr(progress.console, "is_jupyter", True)
    monkeypatch.setattr(type(progress.console), "is_interactive", False, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if widgets and name == "ipywidgets" else None)
    assert progress.shows_bars() is widgets
