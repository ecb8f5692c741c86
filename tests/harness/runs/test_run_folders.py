"""Run folders: nothing is lost by a name, a typo, --overwrite or a second writer, and what is left over can be listed and removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.alignment.resume import interrupted_run
from harness.core.errors import BadInputError
from harness.core.locks import BusyError, is_held, writing
from harness.records.manifest_file import AlignConfig
from harness.runs.claim import claimed
from harness.runs.folders import list_runs, survey
from harness.runs.housekeeping import prune, restore, survey_all
from harness.runs.set_aside import put_answers_aside
from harness.runs.state import lock_of, state_of
from tests.commands import harness
from tests.tiny import tiny_llava

CONFIG = {"method": "dpo", "model": "m", "location": "/m", "data": "d", "settings": {}}


def complete(folder: Path, text: str = "first") -> Path:
    """A complete aligned run."""
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "adapter_config.json").write_text("{}")
    (folder / "checkpoint" / "weights").write_text(text)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "train_log.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    manifest = {"kind": "align", "name": folder.name, "config": CONFIG, "base": {"label": "m", "location": "/m"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def failed(folder: Path, reason: str = "no such data") -> Path:
    """What an attempt leaves that made no step."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "failed.json").write_text(json.dumps({"reason": reason}))
    return folder


def interrupted(folder: Path, steps: int = 3) -> Path:
    """A run that was killed after some steps."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "train_log.jsonl").write_text('{"step": 1}\n' * steps)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, but for the locks' files."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}


@pytest.mark.slow
@pytest.mark.parametrize("name", [".", "..", "../outside", "a/b", "-x", ".hidden", "x" * 300, "a b"])
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_touched(tmp_path: Path, name: str) -> None:
    complete(tmp_path / "results" / "kept")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine.txt").write_text("mine")
    before = tree(tmp_path)
    align = ["align", "--method", "dpo", "--model", str(tmp_path), "--data", "absent.jsonl", f"--name={name}"]
    done = harness(tmp_path, *align, "--overwrite", code=2)
    assert "--name" in done.stderr and tree(tmp_path) == before


@pytest.mark.slow
def test_a_typo_in_data_destroys_no_run(tmp_path: Path) -> None:
    tiny_llava(tmp_path / "m")
    complete(tmp_path / "results" / "kept")
    (tmp_path / "broken.jsonl").write_text('{"question": "without the rest"}\n')
    before = tree(tmp_path / "results")
    for data in ("absent.jsonl", "rlaif-w", "broken.jsonl"):
        align = ["align", "--method", "dpo", "--model", "./m", "--data", data, "--name", "kept"]
        done = harness(tmp_path, *align, "--overwrite", code=2)
        assert "/m" not in done.stderr and tree(tmp_path / "results") == before, done.stderr
    assert "is restored" in done.stderr, "what is wrong inside the file is found after the run was put aside"


@pytest.mark.parametrize("what", ["files", "checkpoint", "exported"])
def test_a_folder_that_is_no_run_is_never_replaced_or_used(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    if what == "checkpoint":
        (folder / "config.json").write_text('{"model_type": "llava"}')
    if what == "exported":
        (folder / "adapter_config.json").write_text("{}")
        (folder / "manifest.json").write_text(json.dumps({"kind": "align", "exported_from": {}}))
    before = tree(tmp_path)
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        with (
            pytest.raises(BadInputError, match="not a run of the harness"),
            claimed(folder, resume=resume, overwrite=overwrite),
        ):
            pytest.fail("the folder was given away")
    assert tree(tmp_path) == before


def test_a_replaced_run_is_put_aside_and_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = complete(tmp_path / "one")
    with claimed(folder, resume=False, overwrite=True) as claim:
        assert (folder / "manifest.json").exists(), "nothing is moved before the new run begins"
        claim.begin()
        assert not any(folder.iterdir()) and claim.aside is not None
        interrupted(folder / "x")  # anything
    assert (claim.aside / "checkpoint" / "weights").read_text() == "first"
    assert "--restore one" in " ".join(capfd.readouterr().err.split())
    assert list_runs(tmp_path) == []


def test_a_run_that_fails_before_its_first_step_gives_the_old_one_back(tmp_path: Path) -> None:
    folder = complete(tmp_path / "one")
    before = tree(tmp_path)
    with pytest.raises(RuntimeError), claimed(folder, resume=False, overwrite=True) as claim:
        claim.begin()
        (folder / "config.json").write_text(json.dumps(CONFIG))
        raise RuntimeError("the data is broken")
    assert tree(tmp_path) == before


def test_a_run_that_fails_after_a_step_is_kept_beside_the_old_one(tmp_path: Path) -> None:
    folder = complete(tmp_path / "one")
    with pytest.raises(KeyboardInterrupt), claimed(folder, resume=False, overwrite=True) as claim:
        claim.begin()
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "train_log.jsonl").write_text('{"step": 1}\n')
        raise KeyboardInterrupt
    state = state_of(folder)
    assert (state.condition, state.steps, state.reason) == ("interrupted", 1, "stopped by Ctrl-C")
    assert claim.aside is not None and (claim.aside / "manifest.json").exists()


def test_the_corrected_command_takes_the_folder_of_a_run_that_made_no_step(tmp_path: Path) -> None:
    folder = failed(tmp_path / "one")
    (folder / "notes.txt").write_text("mine")
    for _ in range(2):
        with claimed(folder, resume=False, overwrite=False) as claim:
            claim.begin()
            assert [path.name for path in folder.iterdir()] == ["notes.txt"]
            (folder / "config.json").write_text(json.dumps(CONFIG))


def test_a_run_with_steps_is_not_taken_without_a_word(tmp_path: Path) -> None:
    folder = interrupted(tmp_path / "one")
    with pytest.raises(BadInputError, match="after 3 steps"), claimed(folder, resume=False, overwrite=False):
        pytest.fail("the folder was given away")


def test_the_run_that_resume_continues_is_the_newest_of_its_configuration(tmp_path: Path) -> None:
    config = AlignConfig.model_validate(CONFIG | {"limit": None})
    begun = [interrupted(tmp_path / name) for name in ("older", "newer", "other")]
    for number, folder in enumerate((*begun, complete(tmp_path / "done"), failed(tmp_path / "no-step"))):
        written = CONFIG | {"limit": None} | ({"data": "d2"} if folder.name == "other" else {})
        (folder / "config.json").write_text(json.dumps(written))
        os.utime(folder / "config.json", (number, number))
    assert interrupted_run(tmp_path, config) == "newer"
    with writing(lock_of(tmp_path / "newer"), "this run", tmp_path / "newer"):
        assert interrupted_run(tmp_path, config) == "older", "a running one was taken"
    assert interrupted_run(tmp_path, config.model_copy(update={"data": "d2"})) == "other"
    with pytest.raises(BadInputError, match=r"interrupted: .*, other \(other model, data\)") as caught:
        interrupted_run(tmp_path, config.model_copy(update={"model": "m2"}))
    assert "--resume --name other" in str(caught.value.remedy)
    for name in ("newer", "older"):
        (tmp_path / name / "train_log.jsonl").unlink()
    assert interrupted_run(tmp_path, config) == "no-step", "of those without a step, the newest"
    with pytest.raises(BadInputError, match="there is none") as caught:
        interrupted_run(tmp_path / "absent", config)
    assert "leave out --resume" in str(caught.value.remedy)


def test_what_came_to_nothing_stays_out_of_boards(tmp_path: Path) -> None:
    complete(tmp_path / "one"), failed(tmp_path / "two"), interrupted(tmp_path / "three")
    runs, reasons = survey([tmp_path])
    assert [run.name for run in runs] == ["one"]
    assert len(reasons) == 1 and "three" in reasons[0]


HOLDER = """
import sys, time
from pathlib import Path
from harness.runs.claim import claimed
with claimed(Path(sys.argv[1]), resume=True, overwrite=False) as claim:
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = interrupted(tmp_path / "results" / "one")
    first = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        assert is_held(lock_of(folder)) and state_of(folder).condition == "running"
        for resume, overwrite in ((True, False), (False, True), (False, False)):
            with pytest.raises(BusyError) as error, claimed(folder, resume=resume, overwrite=overwrite):
                pytest.fail("two writers")
            assert f"process {first.pid} on {os.uname().nodename}" in error.value.problem
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    with claimed(folder, resume=True, overwrite=False) as claim:
        assert claim.state.steps == 3


def test_a_lock_ends_with_its_process_and_looking_at_it_disturbs_nobody(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_held(lock) and not lock.exists()
    with writing(lock, "it", tmp_path):
        assert is_held(lock)
        start = time.monotonic()
        with pytest.raises(BusyError, match=f"process {os.getpid()}"), writing(lock, "it", tmp_path):
            pytest.fail("two writers")
        assert time.monotonic() - start < 5
    assert not is_held(lock)


def listed(folder: Path, *options: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(harness(folder, "runs", "--json", *options).stdout)
    return rows


@pytest.mark.slow
def test_runs_lists_prunes_and_restores(tmp_path: Path) -> None:
    results = tmp_path / "results"
    complete(results / "one"), failed(results / "two", "no such data [x]"), interrupted(results / "three")
    (results / "foreign").mkdir()
    (results / "foreign" / "mine.txt").write_text("mine")
    with claimed(results / "one", resume=False, overwrite=True) as claim:
        claim.begin()
        complete(results / "new", "second")
        for path in list((results / "new").iterdir()):
            path.rename(results / "one" / path.name)
        (results / "new").rmdir()
    rows = {(row["name"], row["state"]): row for row in listed(tmp_path)}
    assert list(rows) == [("one", "complete"), ("one", "replaced"), ("three", "interrupted"), ("two", "failed")]
    assert rows["two", "failed"]["note"] == "no such data [x]" and rows["three", "interrupted"]["note"] == "3 steps"
    assert [key for key, row in rows.items() if row["removable"]] == [("one", "replaced"), ("two", "failed")]
    shown = harness(tmp_path, "runs").stdout
    assert "no such data [x]" in shown and "harness runs --prune" in shown and "foreign" not in shown

    before = tree(results)
    assert "--yes" in harness(tmp_path, "runs", "--prune", code=2).stderr and tree(results) == before
    harness(tmp_path, "runs", "one", "--prune", "--yes", "--json")  # only what was put aside
    assert (results / "one" / "checkpoint" / "weights").read_text() == "second"
    assert [row["state"] for row in listed(tmp_path)] == ["complete", "interrupted", "failed"]
    assert "complete" in harness(tmp_path, "runs", "one", "--prune", "--yes", code=2).stderr
    assert "there is no run" in harness(tmp_path, "runs", "absent", "--prune", "--yes", code=2).stderr
    assert "1 removed" in harness(tmp_path, "runs", "--prune", "--yes").stdout
    harness(tmp_path, "runs", "three", "--prune", "--yes")
    assert [row["name"] for row in listed(tmp_path)] == ["one"] and (results / "foreign" / "mine.txt").exists()


@pytest.mark.slow
def test_restore_changes_places_and_loses_neither(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with claimed(complete(results / "one"), resume=False, overwrite=True) as claim:
        claim.begin()
        interrupted(results / "x")
        for path in list((results / "x").iterdir()):
            path.rename(results / "one" / path.name)
        (results / "x").rmdir()
    [_, aside] = listed(tmp_path)
    assert aside["state"] == "replaced" and not aside["removable"], "the only complete run of its name is kept"
    harness(tmp_path, "runs", "--restore", "one")
    assert (results / "one" / "checkpoint" / "weights").read_text() == "first"
    harness(tmp_path, "runs", "--restore", "one")
    assert state_of(results / "one").steps == 3
    assert "absent" in harness(tmp_path, "runs", "--restore", "absent", code=2).stderr
    with writing(lock_of(results / "one"), "this run", results / "one"):
        assert "another process" in harness(tmp_path, "runs", "--restore", "one", code=2).stderr
    assert state_of(results / "one").steps == 3


def test_threads_that_wait_for_locks_leave_the_warnings_as_they_were(tmp_path: Path) -> None:
    """Downloads hold locks in several threads, and recording warnings changes the state of all of them."""
    filters = warnings.filters

    def wait(name: str) -> None:
        with writing(tmp_path / name, "it", tmp_path, wait=True):
            pass

    with ThreadPoolExecutor(2) as pool, ExitStack() as second:
        with writing(tmp_path / "1", "it", tmp_path):
            second.enter_context(writing(tmp_path / "2", "it", tmp_path))
            first = pool.submit(wait, "1")
            time.sleep(0.3)
            pool.submit(wait, "2")
            time.sleep(0.3)
        first.result()
    assert warnings.filters is filters


@pytest.mark.parametrize("part", ["", "shards/1-of-2", "repeats/2", "noise/500", "noise/500/shards/1-of-2"])
@pytest.mark.parametrize("run", ["one", "one/stages/1-easy"])
def test_replaced_answers_of_runs_and_stages_are_listed_restored_and_pruned(
    tmp_path: Path, run: str, part: str
) -> None:
    complete(tmp_path / "one")
    folder = tmp_path / run / "evals" / "pope@official" / part
    folder.mkdir(parents=True)

    (folder / "responses.jsonl").write_text("first")
    kept = put_answers_aside(folder)
    assert kept is not None
    (folder / "responses.jsonl").write_text("second")
    (folder / "scores.json").write_text("{}")
    [entry] = [one for one in survey_all(tmp_path) if one.condition == "replaced"]
    assert (entry.path, entry.name, entry.removable) == (kept, folder.relative_to(tmp_path).as_posix(), True)
    restore(tmp_path, str(kept))  # as `eval --overwrite` prints it
    assert (folder / "responses.jsonl").read_text() == "first"
    prune(tmp_path, [one for one in survey_all(tmp_path) if one.condition == "replaced"])
    assert not (folder / ".replaced").exists() and (folder / "responses.jsonl").read_text() == "first"


def test_prune_leaves_a_run_that_is_being_written(tmp_path: Path) -> None:
    folder = failed(tmp_path / "results" / "one")
    with writing(lock_of(folder), "this run", folder):
        assert listed(tmp_path)[0]["state"] == "running"
        assert "nothing to remove" in harness(tmp_path, "runs", "--prune", "--yes").stdout
        assert "running" in harness(tmp_path, "runs", "one", "--prune", "--yes", code=2).stderr
    assert folder.exists()


def test_no_folder_of_runs_is_said_and_not_made(tmp_path: Path) -> None:
    assert "no folder" in harness(tmp_path, "runs", code=2).stderr
    (tmp_path / "results").write_text("a file")
    assert "not a folder" in harness(tmp_path, "runs", code=2).stderr


def test_a_run_that_begins_is_running_before_its_configuration_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / ".config.json.x.part").write_text("{")
    assert state_of(folder).condition == "foreign"
    with writing(lock_of(folder), "this run", folder):
        assert state_of(folder).condition == "running"
    assert state_of(folder).condition == "foreign"
