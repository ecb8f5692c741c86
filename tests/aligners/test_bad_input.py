"""`harness align` on data and settings that cannot be used: one clear error, exit code 2, and nothing is left that looks like a run.

What can be wrong with a record is in `test_preference_data.py`, one by one; here is what a person sees.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aligners.base import CHOSEN, REJECTED
from aligners.training.encoding import Encoder
from harness.cli import app
from harness.cli.errors import run
from harness.core.config import TrainSettings
from harness.core.errors import BadInputError
from harness.core.files import read_json
from harness.core.types import ImageRef, PreferenceExample
from tests.aligners.preferences.test_preference_data import GOOD, jsonl, png, rlaif
from tests.aligners.preferences.test_preference_images import server as server
from tests.tiny import decompression_bomb, tiny_parts

QUICK = ["train.epochs=1", "train.batch_size=4", "train.max_length=256", "train.lora.rank=2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a picture in it, and one beside it."""
    (tmp_path / "data").mkdir()
    for place in (tmp_path, tmp_path / "data"):
        (place / "x.png").write_bytes(png())
    return tmp_path / "data"


def align(base: Path, data: Path | str, output: Path, *more: str) -> int:
    settings = [part for one in QUICK for part in ("--set", one)]
    names = ["--model", str(base), "--data", str(data), "--name", "one", "--results", str(output / "results")]
    return run(app, ["align", "--method", "dpo", *names, *settings, *more])


def parquet(path: Path, **changes: Any) -> Path:
    """One good row in RLAIF-V's columns and one with changes; None leaves the column out of both."""
    left_out = {name for name, value in changes.items() if value is None}
    rows = [rlaif(1), rlaif(2, **changes)] if not left_out else [rlaif(1), rlaif(2)]
    rows = [{name: value for name, value in row.items() if name not in left_out} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def bad(folder: Path) -> dict[str, tuple[Path | str, str]]:
    """What is wrong -> the data, and what is said."""
    decompression_bomb(folder / "bomb.png")
    lines = {
        "outside": (GOOD | {"image": "../x.png"}, "the image path leaves the data folder: ../x.png"),
        "url": (GOOD | {"image": "https://example.org/x.png"}, "--allow-download"),
        "bomb": (GOOD | {"image": "bomb.png"}, "decompression bomb"),
        "stray token": (GOOD | {"prompt": "what <image> is it"}, "stray '<image>'"),
        "wrong type in a row": (GOOD | {"chosen": 4}, "'chosen' is a whole number, not text: 4"),
        "nothing but an end": (GOOD | {"chosen": "</s>"}, "the chosen answer contains '</s>'"),
    }
    cases: dict[str, tuple[Path | str, str]] = {
        name: (jsonl(folder / f"{name}.jsonl", [GOOD, row]), said) for name, (row, said) in lines.items()
    }
    cases["missing column"] = (
        parquet(folder / "a.parquet", chosen=None),
        "no known format of preference data has these",
    )
    cases["column of a wrong type"] = (folder / "b.parquet", "rejected (number)")
    rows = [rlaif(number, rejected=number) for number in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "b.parquet")
    cases["no picture in a row"] = (
        parquet(folder / "c.parquet", image={"bytes": b"", "path": None}),
        "there is no image",
    )
    return cases


@pytest.mark.slow
def test_bad_data_is_named_before_anything_is_trained(
    base: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (data, said) in bad(folder).items():
        assert align(base, data, tmp_path, "--overwrite") == 2, name
        heard = capsys.readouterr().err
        assert said in heard and "remedy:" in heard and "Traceback" not in heard, f"{name}: {heard}"
        assert not (tmp_path / "results/one/manifest.json").exists()
        assert not (tmp_path / "results/one/checkpoint").exists()


@pytest.mark.claims("align --on-error")
def test_bad_rows_can_be_left_out_by_name(base: Path, folder: Path, tmp_path: Path) -> None:
    data = jsonl(folder / "d.jsonl", [GOOD, GOOD | {"image": "../x.png"}, GOOD | {"chosen": " "}, GOOD])
    assert align(base, data, tmp_path, "--on-error", "skip") == 0
    dropped = [json.loads(line) for line in (tmp_path / "results/one/dropped.jsonl").read_text().splitlines()]
    assert [one["where"].rpartition(":")[2] for one in dropped] == ["2", "3"]
    assert read_json(tmp_path / "results/one/manifest.json")["summary"]["data"]["examples"] == 2


def test_odd_pictures_are_made_plain_and_trained_on(
    base: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = np.full((30, 20), 40_000, np.uint16)
    Image.fromarray(grey).save(folder / "deep.png")
    Image.new("CMYK", (20, 30), (9, 99, 0, 0)).save(folder / "print.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30), "red").save(folder / "turned.jpg", exif=exif)
    frames = [Image.new("RGB", (20, 30), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    names = ["deep.png", "print.jpg", "turned.jpg", "moving.gif"]
    data = jsonl(folder / "d.jsonl", [GOOD | {"image": name} for name in names])
    assert align(base, data, tmp_path) == 0
    heard = " ".join(capsys.readouterr().err.split())
    for said in (
        "scaled from 16 to 8 bits per channel",
        "converted from CMYK",
        "rotated by their EXIF",
        "reduced to the first of several frames",
    ):
        assert f"1 images are {said}" in heard


@pytest.mark.claims("align --allow-download")
def test_pictures_by_url_are_fetched_only_when_that_is_said(
    base: Path, folder: Path, tmp_path: Path, server: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, asked = server
    data = jsonl(folder / "d.jsonl", [GOOD | {"image": f"{url}/x.png"}])
    assert align(base, data, tmp_path) == 2 and asked == []
    assert "--allow-download" in capsys.readouterr().err
    assert align(base, data, tmp_path, "--allow-download", "--overwrite") == 0 and asked == ["/x.png"]


def test_an_answer_of_which_the_tokenizer_keeps_nothing_is_named() -> None:
    """Some tokenizers leave out what they do not know: then there is an answer in the data, and none in the template."""
    from tokenizers import Regex, normalizers

    processor = tiny_parts()[1]
    processor.tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"[^\x00-\x7f]"), "")
    encoder = Encoder(processor, (CHOSEN, REJECTED), 256, corrections=None)
    example = PreferenceExample("seven", "p", {"original": ImageRef(data=png())}, {"chosen": "猫", "rejected": "a dog"})
    with pytest.raises(BadInputError, match="the chosen response is empty once encoded") as caught:
        encoder.encode(example)
    assert caught.value.where == "seven"


@pytest.mark.slow
@pytest.mark.claims("align --resume")
def test_a_run_that_needed_less_memory_goes_on_with_it_and_with_nothing_else(
    base: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an error for too little memory tells to lower must not make another run of it."""
    data = jsonl(folder / "d.jsonl", [GOOD] * 4)
    assert align(base, data, tmp_path) == 0
    (tmp_path / "results/one/manifest.json").unlink()
    assert align(base, data, tmp_path, "--resume", "--set", "train.learning_rate=0.5") == 2
    rate = TrainSettings().learning_rate
    assert (
        f"other settings: train.learning_rate was {rate}, now 0.5 " in " ".join(capsys.readouterr().err.split()) + " "
    )
    lower = ["--set", "train.micro_batch_size=1", "--set", "train.gradient_checkpointing=true"]
    assert align(base, data, tmp_path, "--resume", *lower) == 0
    assert read_json(tmp_path / "results/one/config.json")["settings"]["train"]["micro_batch_size"] == 1
    assert read_json(tmp_path / "results/one/manifest.json")["resumed"] is True
    assert "s (after the last interruption) on" in (tmp_path / "results/one/checkpoint/README.md").read_text()


def test_what_only_the_models_own_processor_refuses_can_be_skipped_like_any_bad_record(
    base: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {**GOOD, "id": "good"},
        {**GOOD, "id": "long", "prompt": "word " * 400},
        {**GOOD, "id": "ends", "chosen": "</s>"},
    ]
    data = jsonl(folder / "data.jsonl", rows)
    assert align(base, data, tmp_path / "strict") == 2
    assert "tokens of 256" in " ".join(capsys.readouterr().err.split())
    assert align(base, data, tmp_path, "--on-error", "skip") == 0
    kept = [json.loads(line) for line in (tmp_path / "results" / "one" / "dropped.jsonl").read_text().splitlines()]
    assert [one["id"] for one in kept] == ["long", "ends"]
    assert all(one["reason"] for one in kept)
    summary = read_json(tmp_path / "results" / "one" / "manifest.json", "manifest")["summary"]["data"]
    assert (summary["examples"], summary["dropped"]) == (1, 2)


@pytest.mark.slow
@pytest.mark.claims("align --columns", "align --image-root")
def test_columns_and_images_elsewhere_are_named_used_recorded_and_kept_by_resume(
    base: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "y.png").write_bytes(png())
    row = {
        "images": ["y.png"],
        "query": "What is it?",
        "chosen": "a red cat",
        "rejected": "a red dog",
        "topic": "animals",
    }
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps(row | {"rejected_images": ["x.png"]}) + "\n" for _ in range(2)))
    (folder / "x.png").write_bytes(png(5))
    assert align(base, path, tmp_path) == 2
    assert "--columns prompt=query" in capsys.readouterr().err
    options = ["--columns", "prompt=query", "--image-root", str(tmp_path / "pictures")]
    assert align(base, path, tmp_path, "--overwrite", *options) == 0
    said = capsys.readouterr().err
    assert "the column 'topic' is not used (2 of 2 records have it)" in said
    assert "2 examples have a rejected image, which dpo does not use: both answers are to the original image" in said
    config = read_json(tmp_path / "results/one/config.json")
    assert config["columns"] == {"prompt": "query"} and config["image_root"] == str(tmp_path / "pictures")
    assert read_json(tmp_path / "results/one/manifest.json")["summary"]["data"]["unread_columns"] == {"topic": 2}
    assert align(base, path, tmp_path, "--resume", *options) == 0
    assert align(base, path, tmp_path, "--resume", "--columns", "prompt=topic", *options[2:]) == 2
    assert "other settings: columns.prompt was 'query', now 'topic'" in " ".join(capsys.readouterr().err.split())
    assert align(base, path, tmp_path, "--resume", *options[:2]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"image_root was '/.*', now not given", said), "a long path is cut"
