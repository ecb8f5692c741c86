"""The whole road at LLaVA-1.6's shape, as a person types it: RLAIF-V's Parquet, regions from a detector and a segmenter, three stages,
a kill in the second one, the merged checkpoint, vLLM.

All weights are random and small; everything else is what runs at full size.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from aligners.rejected_images.image_set import set_files, set_rows
from harness.cli import app
from harness.cli.errors import run
from harness.core.files import read_json, read_jsonl
from harness.core.types import ImageRef
from harness.models import export_full, load_processor, prompt_inputs
from harness.runs.folders import open_run
from tests import warm
from tests.aligners.preferences.test_preference_data import rlaif
from tests.tiny import tiny_llava_next
from tests.tiny_detectors import tiny_grounding_dino, tiny_sam

pytestmark = pytest.mark.slow

SIZES = [(60, 60), (110, 40), (40, 110), (30, 24), (64, 48), (90, 90)]
THINGS = ["dog", "cat", "boat", "cup"]
NOTHING = "It is what it is."
"""A response without a keyword: no region, so the whole image is corrupted."""
STAGES = ["easy", "medium", "hard"]


def drawn(number: int) -> bytes:
    """A picture of a few coloured shapes."""
    rng = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    picture = Image.new("RGB", (width, height), tuple(int(part) for part in rng.integers(0, 256, 3)))
    pen = ImageDraw.Draw(picture)
    for _ in range(4):
        left, top = int(rng.integers(0, width - 8)), int(rng.integers(0, height - 8))
        box = (left, top, left + int(rng.integers(6, width)), top + int(rng.integers(6, height)))
        pen.ellipse(box, fill=tuple(int(part) for part in rng.integers(0, 256, 3)))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def published(path: Path, count: int) -> None:
    """Pairs in RLAIF-V's columns; every sixth speaks of nothing."""
    rows = []
    for number in range(count):
        thing, other = THINGS[number % 4], THINGS[(number + 1) % 4]
        chosen = (
            NOTHING if number % 6 == 5 else f"A red {thing} with a {other} beside it. {'It is small. ' * (number % 5)}"
        )
        image = {"bytes": drawn(number), "path": f"{number}.png"}
        rows.append(
            rlaif(number, image=image, question="What is this?", chosen=chosen, rejected=f"A {other} and a {thing}.")
        )
    pq.write_table(pa.Table.from_pylist(rows), path)


@dataclass(frozen=True)
class Road:
    """A folder with `model`, `dino`, `sam` and `prefs.parquet`, and the runs in `results`."""

    folder: Path

    def align(self, name: str, data: str, *more: str, **train: Any) -> list[str]:
        """The command of an alignment."""
        settings = {
            "train": {"learning_rate": 5e-3, "epochs": 6, "batch_size": 4, "micro_batch_size": 2, "max_length": 400}
            | {"lora.rank": 4, "lora.alpha": 8, "save_steps": 2}
            | train,
            "method.images": {"detector": self.folder / "dino", "segmenter": self.folder / "sam"}
            | {"box_threshold": 0.01, "text_threshold": 0.01, "step": 700},
        }
        sets = [f"{part}.{key}={value}" for part, values in settings.items() for key, value in values.items()]
        return ["align", "--method", "mfpo", "--model", str(self.folder / "model"), "--data", str(self.folder / data),
                "--name", name, "--results", str(self.folder / "results"), *more,
                *(part for one in sets for part in ("--set", one))]  # fmt: skip

    def run(self, name: str) -> Path:
        """A run's folder."""
        return self.folder / "results" / name

    def log(self, name: str) -> list[dict[str, Any]]:
        """A run's training log."""
        return list(read_jsonl(self.run(name) / "train_log.jsonl"))

    def made(self, name: str) -> list[dict[str, Any]]:
        """A run's set of rejected images."""
        notes = read_json(self.run(name) / "manifest.json")["summary"]["prepared"]["image_preferences"]
        assert notes["source"] == "grounding-dino+sam"
        return list(set_rows(set_files(Path(notes["kept_in"]))))


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """Small LLaVA-1.6, detector, segmenter and data, and a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("road")
    export_full(*tiny_llava_next(), folder / "model")
    tiny_grounding_dino(folder / "dino")
    tiny_sam(folder / "sam")
    published(folder / "prefs.parquet", 24)
    road = Road(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder / "cache-calm"))
        assert run(app, road.align("calm", "prefs.parquet")) == 0
    return road


def check_images(rows: Sequence[dict[str, Any]], originals: dict[str, bytes], road: Road) -> None:
    """Every image says how it was made, and differs from its original inside of its mask only."""
    for row in rows:
        original = np.asarray(ImageRef(data=originals[row["id"]]).open())
        rejected = np.asarray(ImageRef(data=row["rejected_image"]["bytes"]).open())
        mask = np.asarray(Image.open(io.BytesIO(row["mask"]))).astype(bool)
        assert mask.shape == original.shape[:2] and mask.any()
        assert np.array_equal(original[~mask], rejected[~mask]) and not np.array_equal(original, rejected)
        assert (row["corruption"], row["step"], row["seed"]) == ("noise", 700, f"0:{row['id']}")
        assert (row["detector"], row["segmenter"]) == (str(road.folder / "dino"), str(road.folder / "sam"))
        assert len(row["keywords"]) == len(row["boxes"]) == len(row["scores"])
        assert (row["made"] == "whole-image") == (not row["keywords"])
        if row["made"] == "whole-image":
            assert mask.all()
        for left, top, right, bottom in row["boxes"]:
            assert 0 <= left < right <= mask.shape[1] and 0 <= top < bottom <= mask.shape[0]


def check_log(rows: Sequence[dict[str, Any]], steps: int) -> None:
    """Three stages, every step once, with all that a person would plot."""
    assert [(row["stage"], row["step"]) for row in rows] == [(name, n + 1) for name in STAGES for n in range(steps)]
    terms = {"loss", "loss_text", "loss_image", "loss_margin"}
    branches = {"reward_chosen", "reward_rejected", "reward_image_rejected", "margin", "margin_image_rejected"}
    accuracies = {"accuracy", "accuracy_image_rejected"}
    for row in rows:
        assert terms | branches | accuracies | {"learning_rate", "tokens_per_second", "examples_per_second"} <= set(row)
        assert all(np.isfinite(value) for value in row.values() if not isinstance(value, str))
        assert row["loss"] == pytest.approx(row["loss_text"] + row["loss_image"] + row["loss_margin"], abs=1e-4)
    for name in STAGES:  # the reference of each is the model that it starts from
        first = next(row for row in rows if row["stage"] == name)
        assert first["loss"] == pytest.approx(3 * np.log(2), abs=2e-3) and first["margin"] == pytest.approx(0, abs=1e-3)


def adapter(folder: Path) -> bytes:
    return (folder / "checkpoint" / "adapter_model.safetensors").read_bytes()


def test_images_have_different_numbers_of_tiles(road: Road) -> None:
    processor = load_processor(road.folder / "model")
    lengths = {
        len(prompt_inputs(processor, "What is this?", ImageRef(data=drawn(number)).open())["input_ids"][0])
        for number in range(len(SIZES))
    }
    assert len(lengths) >= 3, "the road would be LLaVA-1.5's"


def test_rejected_images_are_recorded(road: Road) -> None:
    rows = road.made("calm")
    assert len(rows) == 24
    check_images(rows, {str(number): drawn(number) for number in range(24)}, road)
    with_regions = [row for row in rows if row["made"] == "regions"]
    nothing = {row["id"] for row in rows if row["made"] == "whole-image"}
    assert {str(number) for number in range(24) if number % 6 == 5} <= nothing and len(with_regions) >= 12
    for row in with_regions:
        assert all(any(thing in keyword for thing in THINGS) for keyword in row["keywords"])
    samples = list(read_jsonl(road.run("calm") / "image_preferences.jsonl"))
    assert len(samples) == 24 and all((road.run("calm") / one["rejected"]).exists() for one in samples)


def test_every_stage_leaves_a_checkpoint_that_is_a_run(road: Road, capsys: pytest.CaptureFixture[str]) -> None:
    check_log(road.log("calm"), 12)
    whole = read_json(road.run("calm") / "manifest.json")
    assert [(one["stage"], one["examples"], one["steps"]) for one in whole["summary"]["stages"]] == [
        (name, 8, 12) for name in STAGES
    ]
    folders = sorted((road.run("calm") / "stages").iterdir())
    assert [path.name for path in folders] == ["1-easy", "2-medium", "3-hard"]
    for number, folder in enumerate(folders, 1):
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "manifest.json"]
        stage = open_run(folder)
        assert stage.name == f"calm-{folder.name}" and stage.aligned and stage.manifest is not None
        assert stage.manifest.summary is not None
        assert stage.manifest.summary["stages"] == whole["summary"]["stages"][:number]
        assert stage.manifest.config == {**whole["config"], "stage": folder.name}
        assert f"After its stage `{folder.name}`" in (folder / "checkpoint" / "README.md").read_text()
    assert len({adapter(folder) for folder in folders}) == 3 and adapter(folders[-1]) == adapter(road.run("calm"))
    # A learning rate that falls to nothing in each stage: every one has a schedule of its own.
    rates = {name: [row["learning_rate"] for row in road.log("calm") if row["stage"] == name] for name in STAGES}
    assert rates["easy"] == rates["medium"] == rates["hard"] and max(rates["easy"]) > 40 * rates["easy"][-1] > 0


def test_a_kill_in_the_second_stage_changes_nothing(
    road: Road, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(road.folder / "cache-killed"))
    process = warm.start(
        road.align("killed", "prefs.parquet"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    stages = road.run("killed") / "stages"
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if list(stages.glob("2-medium/checkpoint-*/trainer_state.json")):
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    assert (stages / "1-easy" / "manifest.json").exists(), "the first stage can be evaluated already"
    assert (
        not (stages / "2-medium" / "finished.safetensors").exists()
        and not (road.run("killed") / "manifest.json").exists()
    )
    # What a kill leaves that comes while a checkpoint is written: a folder without its last file, and half of a line in the log.
    newest = max(stages.glob("2-medium/checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    half = Path(shutil.copytree(newest, newest.with_name("checkpoint-11")))
    (half / "trainer_state.json").unlink()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    with (road.run("killed") / "train_log.jsonl").open("a") as log:
        log.write('{"stage": "medium", "st')

    resume = road.align("killed", "prefs.parquet", "--resume")
    assert run(app, resume) == 0
    assert "1-easy" in capsys.readouterr().out
    assert adapter(road.run("killed")) == adapter(road.run("calm"))
    for name in ("1-easy", "2-medium", "3-hard"):
        assert adapter(stages / name) == adapter(road.run("calm") / "stages" / name)
        assert sorted(path.name for path in (stages / name).iterdir()) == ["checkpoint", "manifest.json"]
    check_log(road.log("killed"), 12)
    timed = ("learning_rate", "loss", "margin", "accuracy_image_rejected")
    assert [[row[key] for key in timed] for row in road.log("killed")] == [
        [row[key] for key in timed] for row in road.log("calm")
    ]
    assert [one["stage"] for one in read_json(road.run("killed") / "manifest.json")["summary"]["stages"]] == STAGES
    before = (road.run("killed") / "manifest.json").read_bytes()
    assert run(app, resume) == 0, "there is nothing left to do"
    assert (road.run("killed") / "manifest.json").read_bytes() == before


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.vllm
def test_the_merged_checkpoint_is_served_as_it_was_trained(road: Road, capsys: pytest.CaptureFixture[str]) -> None:
    merged = road.folder / "merged"
    assert run(app, ["export", str(road.run("calm")), "-o", str(merged), "--overwrite"]) == 0
    capsys.readouterr()
    code = run(app, ["verify", str(merged), "--probes", "4", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and found["same"] and found["serving"]["distribution"].startswith("vllm"), found["findings"]


def test_run_and_stage_are_evaluated_by_name(
    road: Road, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(road.folder)  # where the model's label, "model", is its folder
    from harness.worlds.pocket.formats import write_benchmarks

    write_benchmarks(0, "validation", tmp_path / "data")
    command = ["eval", "--run", "calm,calm/stages/1-easy", "--suite", "pope", "--data", str(tmp_path / "data")]
    assert run(app, [*command, "--limit", "4", "--backend", "transformers"]) == 0
    for folder in (road.run("calm"), road.run("calm") / "stages" / "1-easy"):
        [log] = folder.glob("evals/pope@*/responses.jsonl")
        assert len(list(read_jsonl(log))) >= 4
    capsys.readouterr()
    assert run(app, ["leaderboard", "results", "results/calm/stages", "--json"]) == 0
    assert "calm-1-easy" in capsys.readouterr().out


def test_published_pictures_and_questions(road: Road, conformance: Path, tmp_path: Path) -> None:
    """Pictures and questions of RLAIF-V's own repository; the answers, which it does not have, are ours."""
    folder = conformance / "data" / "RLAIF-V"
    rows, originals = [], {}
    for number, row in enumerate(read_jsonl(folder / "examples" / "detail_test_30_input.jsonl")):
        path = folder / row["image_path"]
        if path.is_file() and len(rows) < 4:
            originals[str(number)] = path.read_bytes()
            image = {"bytes": originals[str(number)], "path": path.name}
            thing = THINGS[len(rows)]
            rows.append(
                rlaif(number, image=image, question=row["question"], chosen=f"A {thing}.", rejected="A cup."[::-1])
            )
    pq.write_table(pa.Table.from_pylist(rows), road.folder / "real.parquet")
    assert run(app, road.align("real", "real.parquet", epochs=1, batch_size=2)) == 0
    made = road.made("real")
    assert len(made) == 4 and any(row["made"] == "regions" for row in made)
    check_images(made, originals, road)
    assert [row["stage"] for row in road.log("real")] == STAGES
