"""What an experiment says about its running steps, in its own output and for --status."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from harness.experiments import execute
from harness.experiments.execute import run_steps
from harness.experiments.graph import Plan, plan
from harness.experiments.spec import read_experiment
from harness.experiments.state import ExperimentFolder
from harness.runs.state import lock_of
from tests.commands import harness

SPEC = "title: t\nsuites: [halbench]\nseeds: [6]\narms: {a: {method: dpo}, b: {method: mdpo}}\n"


class Elsewhere:
    """Runs each command on a thread for half a second; its log gets a warning and a line of progress."""

    capacity = 2
    shares_cores = False
    shows_progress = False

    def __init__(self, during: Callable[[], None] = lambda: None) -> None:
        self.during = during

    def submit(self, command: Sequence[str], log: Path, *, alone: bool = False) -> Future[str | None]:
        assert log.read_text() == "", "what an earlier try said is not shown for this one"
        future: Future[str | None] = Future()
        threading.Thread(target=self._run, args=(command[0], log, future), daemon=True).start()
        return future

    def _run(self, name: str, log: Path, future: Future[str | None]) -> None:
        log.write_text(f"a warning\n{name}: 3 of 10 [bold](loss 1)\n\n")
        try:
            self.during()
            time.sleep(0.5)
        except BaseException as error:  # noqa: BLE001 (the test shows it)
            future.set_exception(error)
        else:
            future.set_result(None)

    def close(self) -> None:
        pass


def planned(tmp_path: Path) -> tuple[Plan, ExperimentFolder]:
    (tmp_path / "a.yaml").write_text(SPEC)
    return plan(read_experiment(tmp_path / "a.yaml"), tmp_path), ExperimentFolder(tmp_path / "a", tmp_path)


def test_a_pipe_is_told_what_the_running_steps_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_PROGRESS_SECONDS", "0.1")
    monkeypatch.setattr(execute, "_TICK", 0.05)
    steps, folder = planned(tmp_path)
    folder.log(steps.steps[0]).write_text("of an earlier try")
    assert run_steps(steps, folder, Elsewhere()) == {}
    lines = capsys.readouterr().err.splitlines()
    total = len(steps.steps)
    first = f"(0 of {total} have ended; world-pocket-6 for 0 s: data: 3 of 10 [bold](loss 1))"
    assert any(line.startswith("steps: 0 s so far") and line.endswith(first) for line in lines), lines
    assert any(line.count("align: 3 of 10") == 2 for line in lines), "both alignments that run side by side"


def test_status_shows_the_running_steps_with_their_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the steps' keys name the results as they are given
    seen: list[dict[str, Any]] = []
    text: list[str] = []

    def ask(*options: str) -> str:
        return harness(tmp_path, "experiment", "a.yaml", "--results", ".", "--status", *options).stdout

    def during() -> None:
        if not seen:
            seen.append(json.loads(ask("--json")))
            text.append(ask())

    steps, folder = planned(Path())
    with folder.locked():
        assert run_steps(steps, folder, Elsewhere(during)) == {}
    states = {step["name"]: step["state"] for step in seen[0]["steps"]}
    assert states.pop("world-pocket-6") == "running" and set(states.values()) == {"waiting"} and seen[0]["running"]
    lines = text[0].splitlines()
    assert f"1 running, {len(states)} waiting" in lines[0]
    place = next(number for number, line in enumerate(lines) if line.startswith("  running world-pocket-6"))
    assert lines[place].endswith(" s so far") and lines[place + 1].strip() == "data: 3 of 10 [bold](loss 1)"
    [left] = tmp_path.rglob("running.json")
    assert json.loads(left.read_text()) == {"begun": {}}, "all have ended"


class AtTheSameTime(Elsewhere):
    """While the world is made, another experiment ends the first alignment and begins the second. It asks the base model when this one
    begins its evaluation, which is refused therefore."""

    def __init__(self, steps: Plan, folder: ExperimentFolder) -> None:
        super().__init__()
        self.first, self.second = (folder.results / step.makes for step in steps.steps if step.kind == "align")
        self.commands: list[str] = []
        self.ends: list[threading.Timer] = []

    def _hold(self, lock: Path, then: Callable[[], object] = lambda: None) -> None:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock, thread_local=False)
        held.acquire()

        def end() -> None:
            then()
            held.release()

        self.ends.append(threading.Timer(0.5, end))
        self.ends[-1].start()

    def _complete(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {"kind": "align", "name": folder.name, "base": {"label": "pocket:6"}}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    def submit(self, command: Sequence[str], log: Path, *, alone: bool = False) -> Future[str | None]:
        self.commands.append(command[0])
        future: Future[str | None] = Future()
        if command[0] == "data":
            self._complete(self.first)
            self._hold(lock_of(self.second), lambda: self._complete(self.second))
        elif self.commands.count("eval") == 1:
            self._hold(self.first / "evals/halbench@pocket-6-test/.responses.lock")
            future.set_result("another process is writing these responses")
            return future
        future.set_result(None)
        return future


def test_what_another_experiment_does_meanwhile_is_waited_for_and_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(execute, "_TICK", 0.05)
    steps, folder = planned(tmp_path)
    work = AtTheSameTime(steps, folder)
    with caplog.at_level("INFO"):
        assert run_steps(steps, folder, work) == {}
    for timer in work.ends:
        timer.join()
    assert work.commands == ["data", "eval", "eval"]
    assert caplog.text.count("was done by another process meanwhile") == 2
    assert caplog.text.count("waiting: another process is at work on step") == 2
    assert {record.state for _, record in folder.table(steps)} == {"done"}


def test_what_a_killed_process_left_is_not_running(tmp_path: Path) -> None:
    steps, folder = planned(tmp_path)
    rows = folder.table(steps)
    for path in (folder.path, folder.path / "search/000"):
        ExperimentFolder(path, tmp_path).keep_running({steps.steps[0].name: time.time()})
    assert folder.with_running(rows) == rows, "no process holds the lock"
    with folder.locked():
        assert folder.with_running(rows) == rows, "its files are removed before anything starts"
    trial = ExperimentFolder(folder.path / "search/000", tmp_path)
    with folder.locked():
        trial.keep_running({steps.steps[0].name: time.time() - 60})
        ((_, record), *others) = folder.with_running(rows)
        assert record.state == "running" and record.seconds is not None and 60 <= record.seconds < 90
        assert others == list(rows[1:])


@contextlib.contextmanager
def as_another_user() -> Iterator[None]:
    """Without the right to write what this user has written; root takes another identity."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_the_folder_of_another_user_is_shown(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are closed to others
        results = Path(name)
        (tmp_path / "a.yaml").write_text(SPEC)
        steps, folder = plan(read_experiment(tmp_path / "a.yaml"), results), ExperimentFolder(results / "a", results)
        with folder.locked():
            folder.keep(steps.steps[0], "done", 3.0, has_scores=True)
        lock = folder.path / ".experiment.lock"
        for path, mode in ((lock, 0o444), (folder.path, 0o555), (results, 0o555)):
            path.chmod(mode)
        try:
            with as_another_user():
                with pytest.raises(PermissionError):
                    lock.open("r+")
                assert not folder.is_running
                states = [record.state for _, record in folder.with_running(folder.table(steps))]
        finally:
            for path in (results, folder.path):
                path.chmod(0o755)
    assert states == ["done", "waiting", "waiting", "waiting"]


def test_printed_commands_resume_the_runs_that_were_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    steps, _ = planned(Path())
    begun = next(step for step in steps.steps if step.kind == "align")
    (tmp_path / begun.makes).mkdir(parents=True)
    (tmp_path / begun.makes / "config.json").write_text("{}")
    printed = harness(tmp_path, "experiment", "a.yaml", "--results", ".", "--print").stdout.splitlines()
    assert len(printed) == len(steps.steps)
    assert [line for line in printed if line.endswith(" --resume")] == [line for line in printed if begun.run in line][
        :1
    ]
    shown = json.loads(harness(tmp_path, "experiment", "a.yaml", "--results", ".", "--status", "--json").stdout)
    assert [shlex.join(step["command"]) for step in shown["steps"]] == printed
