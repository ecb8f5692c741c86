"""What a training takes on the disk is predicted before it begins, and one that cannot fit stops with exit code 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aligners.dpo import DPO
from aligners.mfpo import MFPO
from aligners.rejected_images import image_set
from aligners.training import run as training
from aligners.training.memory.footprint import architecture
from aligners.training.planning.room import disk_room, still_to_write
from harness.core import disk
from harness.core.config import TrainSettings
from harness.core.errors import BadInputError
from tests.aligners.training.test_cost_only import KilledError, killed_at
from tests.aligners.training.test_resume import SETTINGS, job
from tests.commands import run_here


def large(folder: Path) -> int:
    """Bytes of weights and moments."""
    return sum(path.stat().st_size for kind in ("*.safetensors", "optimizer.pt") for path in folder.rglob(kind))


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_what_is_predicted_is_what_is_written(tuning: str, base: Path, pairs: Path, tmp_path: Path) -> None:
    train = TrainSettings.model_validate({**SETTINGS, "tuning": tuning})
    model = architecture(str(base), train)
    with pytest.raises(KilledError):
        training.train(killed_at(DPO, 3), job(base, pairs, tmp_path / "run", tuning=tuning))
    [checkpoint] = (tmp_path / "run" / "stages" / "1-all").glob("checkpoint-*")
    room = disk_room(model, train, [3])
    # Two at a time, and what the stage trained beside them.
    assert room.most == pytest.approx(2 * large(checkpoint) + 4 * model.trained, rel=0.1)
    assert still_to_write(room, tmp_path / "run") == pytest.approx(room.most - large(checkpoint), rel=0.3)
    training.train(DPO(), job(base, pairs, tmp_path / "run", resume=True, tuning=tuning))
    assert room.checkpoint == pytest.approx(large(tmp_path / "run" / "checkpoint"), rel=0.1)


def test_stages_that_are_kept_and_steps_count(base: Path) -> None:
    train = TrainSettings.model_validate(SETTINGS)
    model = architecture(str(base), train)
    trained = 4 * model.trained
    assert disk_room(model, train, [9]).most == (2 * 3 + 1) * trained
    assert disk_room(model, train.model_copy(update={"save_steps": 9}), [9]).most == (3 + 1) * trained
    assert disk_room(model, train, [9, 9, 9]).most == (3 + 3 + 2 * 3) * trained
    without = train.model_copy(update={"keep_stages": False})
    assert disk_room(model, without, [9, 9, 9]).most == (3 + 2 * 3) * trained
    assert (disk_room(model, train, [9, 9, 9]).checkpoint, disk_room(model, without, [9] * 3).checkpoint) == (
        4 * trained,
        trained,
    )


Free = Callable[[int], None]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Free:
    """Says how many bytes are free on every disk."""

    def left(count: int) -> None:
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage._replace(free=count))

    return left


@pytest.mark.parametrize("tuning", ["--lora", "--full"])
def test_a_run_that_cannot_fit_is_refused_before_anything_is_made(
    tuning: str, base: Path, pairs: Path, tmp_path: Path, free: Free
) -> None:
    command = ["align", "--method", "dpo", "--model", str(base), "--data", str(pairs), "--name", "one", tuning]
    train = TrainSettings(tuning="full" if tuning == "--full" else "lora")
    wanted = disk_room(architecture(str(base), train), train).most
    free(wanted - 1)
    code, _, said = run_here([*command, "--results", str(tmp_path / "results")])
    assert code == 2 and "the disk is too small" in said and "--results" in said and not (tmp_path / "results").exists()
    assert ("the checkpoints of all weights" if tuning == "--full" else "the checkpoints of adapters") in said


@pytest.mark.slow
def test_more_stages_take_more_which_is_said_once_they_are_known(
    base: Path, pairs: Path, tmp_path: Path, free: Free, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look, when the data are read and before the first step."""
    train = TrainSettings.model_validate(SETTINGS)
    model = architecture(str(base), train)
    monkeypatch.setattr(image_set, "need", lambda rooms: None)  # rejected images have a test of their own
    free(disk_room(model, train, [1]).most)
    with pytest.raises(BadInputError, match=r"the disk is too small.*checkpoints of 3 stages"):
        training.train(MFPO(), job(base, pairs, tmp_path / "run"))
    assert not list((tmp_path / "run").glob("stages/*/checkpoint-*"))
    free(disk_room(model, train, [1, 1, 1]).most)
    training.train(MFPO(), job(base, pairs, tmp_path / "run"))


def test_rejected_images_that_cannot_fit_are_not_begun(base: Path, pairs: Path, tmp_path: Path, free: Free) -> None:
    method: Any = MFPO()
    free(10_000)
    with pytest.raises(BadInputError, match=r"the disk is too small.*24 rejected images"):
        training.train(method, job(base, pairs, tmp_path / "run"))
    assert not list((tmp_path / "cache").rglob("*.parquet"))
