"""Full disks and places that cannot be written: exit code 2, the path and the remedy, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aligners.training.memory.footprint import architecture
from aligners.training.planning.room import disk_room
from harness.cli import app
from harness.cli.errors import run
from harness.core.config import LoraSettings, TrainSettings
from tests.chaos.kills import make
from tests.commands import harness
from tests.tiny import tiny_pairs

EVAL = ["eval", "--model", "./base", "--data", "data", "--suite", "pope", "--backend", "transformers"]
EVAL += ["--set", "sampling.max_new_tokens=4"]
ALIGN = ["align", "--method", "dpo", "--model", "./base", "--data", "pairs/rlaif-v.parquet", "--name", "one"]
ALIGN += ["--set", "train.lora.rank=2", "--set", "train.epochs=1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a POPE of eight questions, and pairs."""
    folder = tmp_path_factory.mktemp("made")
    make(folder, 8)
    tiny_pairs(folder / "pairs", 8)
    return folder


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, leave: int = 0) -> Path:
        """Take all space but so many bytes."""
        ballast = self.path / "ballast"
        ballast.unlink(missing_ok=True)
        free = shutil.disk_usage(self.path).free
        with ballast.open("wb") as stream:
            stream.write(b"0" * max(0, free - leave))
        return ballast

    def read_only(self, yes: bool) -> None:
        options = f"remount,{'ro' if yes else 'rw'}"
        subprocess.run(["mount", "-o", options, str(self.path)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Two megabytes, where this process may mount; else the test is skipped."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"this process may not mount a file system: {done.stderr.strip()}")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def said(done: subprocess.CompletedProcess[str], what: str, path: Path) -> None:
    text = " ".join(done.stderr.split())
    assert what in text and "remedy:" in text and "defect" not in text and "Traceback" not in text, done.stderr
    assert f"where: {path}" in text, done.stderr


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_evaluation_goes_on_once_there_is_room(made: Path, disk: Disk) -> None:
    results = disk.path / "results"
    ballast = disk.fill()
    done = harness(made, *EVAL, "--results", str(results), code=2)
    said(done, "no space left on device", disk.path)
    ballast.unlink()
    harness(made, *EVAL, "--results", str(results))
    scores = results / "base-base" / "evals" / "pope@data" / "scores.json"
    first = json.loads(scores.read_text())["metrics"]
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file() and path.suffix != ".lock"}
    disk.fill()
    done = harness(made, *EVAL, "--results", str(results), "--overwrite", code=2)
    said(done, "no space left on device", disk.path)
    after = {path: path.read_bytes() for path in results.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert after == before, "the answers that were there are back"
    assert json.loads(scores.read_text())["metrics"] == first


@pytest.mark.slow
def test_a_disk_that_fills_up_under_a_training_is_said(made: Path, disk: Disk) -> None:
    train = TrainSettings(lora=LoraSettings(rank=2))
    wanted = disk_room(architecture(str(made / "base"), train), train).most
    disk.fill(leave=wanted - 20_000)
    done = harness(made, *ALIGN, "--results", str(disk.path / "results"), code=2)
    said(done, "the disk is too small", disk.path)
    assert "the checkpoints of adapters" in done.stderr and not (disk.path / "results").exists()
    # Weights and moments have room; the logs and the tokenizer beside them have not.
    disk.fill(leave=wanted + 20_000)
    done = harness(made, *ALIGN, "--results", str(disk.path / "results"), code=2)
    assert "no space left on device" in done.stderr and "remedy:" in done.stderr and "defect" not in done.stderr
    (disk.path / "ballast").unlink()
    [row] = json.loads(harness(made, "runs", "--json", "--results", str(disk.path / "results")).stdout)
    assert row["state"] in ("failed", "interrupted")
    more = ["--resume"] if row["state"] == "interrupted" else []
    harness(made, *ALIGN, "--results", str(disk.path / "results"), *more)


@pytest.mark.slow
def test_a_read_only_place_is_said(made: Path, disk: Disk) -> None:
    (disk.path / "results").mkdir()
    disk.read_only(True)
    try:
        for command in (EVAL, ALIGN):
            said(
                harness(made, *command, "--results", str(disk.path / "results"), code=2),
                "read-only file system",
                disk.path,
            )
        done = harness(made, "data", "corrupt", "pairs/rlaif-v.parquet", "-o", str(disk.path / "set"), code=2)
        said(done, "read-only file system", disk.path)
    finally:
        disk.read_only(False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["read-only", "full"])
def test_a_cache_that_cannot_be_written_costs_time_and_is_said_once(made: Path, disk: Disk, kind: str) -> None:
    (disk.path / "cache").mkdir()
    if kind == "full":
        disk.fill()
    else:
        disk.read_only(True)
    try:
        results = f"results-{kind}"
        for command in (EVAL, ALIGN):
            done = harness(made, *command, "--results", results, HARNESS_CACHE=str(disk.path / "cache"))
            assert " ".join(done.stderr.split()).count("the cache cannot be written") == 1, done.stderr
    finally:
        disk.read_only(False)


@pytest.mark.parametrize(
    ("results", "what"),
    [
        ("loop/results", "link"),
        ("loop", "link"),
        ("gone", "link"),
        ("x" * 300, "name too long"),
        ("/proc/results", "a folder cannot be created here"),
        ("a-file", "is a file"),
        ("a-file/results", "is a file"),
        ("/dev/full", "is a file"),
    ],
)
def test_a_place_that_cannot_be_one_is_said(
    made: Path, results: str, what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    (made / "a-file").write_text("mine")
    for name, target in (("loop", "loop"), ("gone", "nowhere")):
        if not (made / name).is_symlink():
            (made / name).symlink_to(target)
    before = sorted(path.name for path in made.iterdir())
    for command in ([*ALIGN, "--results", results], [*EVAL, "--results", results], ["runs", "--results", results]):
        assert run(app, command) == 2, command
        text = " ".join(capsys.readouterr().err.split())
        assert what in text or "there is no folder" in text or "is no folder" in text or "is not a folder" in text, text
        assert "defect" not in text and "error:" in text
    assert sorted(path.name for path in made.iterdir()) == before and (made / "a-file").read_text() == "mine"
