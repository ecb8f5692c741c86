"""`harness data check` of preference data: what is counted, what is fatal, and what a person sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aligners.preferences.check import CheckRequest, check_preferences
from aligners.preferences.overlap import EvaluationSet, coco_number, evaluation_sets, look, overlaps
from harness.core.types import ImageRef
from harness.models import export_full
from tests.aligners.preferences.test_preference_data import jsonl
from tests.tiny import tiny_parts


def photograph(path: Path, seed: int, size: tuple[int, int] = (320, 240)) -> Path:
    """A smooth picture, as photographs are, so that scaling keeps its look."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).resize(size).save(path)
    return path


def row(
    image: str, prompt: str = "What is it?", chosen: str = "a red cat", rejected: str = "a blue dog", **more: Any
) -> Any:
    return {"image": image, "prompt": prompt, "chosen": chosen, "rejected": rejected} | more


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        photograph(tmp_path / f"{number}.png", number)
    return tmp_path


def test_what_is_repeated_and_what_contradicts(folder: Path) -> None:
    rows = [
        row("0.png", id="first"),
        row("0.png", id="again"),
        row("0.png", id="turned", chosen="a blue dog", rejected="a red cat"),
        row("0.png", id="asked otherwise", prompt="And this?"),
        row("1.png", id="other"),
        row("2.png", id="same", chosen="x", rejected="x"),
    ]
    report = check_preferences(CheckRequest(jsonl(folder / "d.jsonl", rows)))
    duplicates = report["duplicates"]
    assert duplicates["same_record_ids"] == ["again"] and duplicates["same_record"] == 1
    assert duplicates["same_image_and_prompt"] == 3
    assert duplicates["contradicting_ids"] == ["first", "again", "turned"]
    assert report["images"]["distinct"] == 2 and report["images"]["used_more_than_once"] == 1
    assert (report["records"], report["usable"]) == (6, 5)
    assert report["bad"] == [
        {"where": f"{folder / 'd.jsonl'}:6", "id": "same", "reason": "chosen and rejected are identical"}
    ]
    assert report["fatal"] == ["1 of 6 records cannot be used; skip them with --on-error skip"]
    assert check_preferences(CheckRequest(str(folder / "d.jsonl"), on_error="skip"))["fatal"] == []


def test_longer_chosen_answers_are_noted(folder: Path) -> None:
    rows = [
        row("0.png", chosen="one two three four", rejected="one two"),
        row("1.png", chosen="a b", rejected="c d e f"),
    ]
    even = check_preferences(CheckRequest(jsonl(folder / "d.jsonl", rows)))
    assert even["words"] == {"chosen": 3.0, "rejected": 3.0, "ratio": 1.0, "chosen_longer": 0.5, "rejected_longer": 0.5}
    assert not even["warnings"]
    longer = check_preferences(CheckRequest(jsonl(folder / "e.jsonl", rows[:1])))
    assert longer["words"]["ratio"] == 2.0
    assert "2.00 times as long" in longer["warnings"][0]


def test_lengths_are_those_that_the_trainer_encodes(folder: Path) -> None:
    from aligners.base import CHOSEN, REJECTED
    from aligners.preferences import read_preferences
    from aligners.training.encoding import Encoder

    processor = tiny_parts()[1]
    rows = [row("0.png"), row("1.png", prompt="Describe this image. " * 3, chosen="a red cat " * 9)]
    path = jsonl(folder / "d.jsonl", rows)
    encoder = Encoder(processor, (CHOSEN, REJECTED), 4096, corrections=None)
    encoded = [encoder.encode(one) for one in read_preferences(path).examples]
    prompts = [len(one.prefixes["original"]) for one in encoded]
    longest = [prompt + max(map(len, one.responses.values())) for prompt, one in zip(prompts, encoded, strict=True)]
    report = check_preferences(CheckRequest(path, processor))
    lengths = report["tokens"]["lengths"]
    assert (lengths["image and prompt"]["min"], lengths["image and prompt"]["max"]) == (min(prompts), max(prompts))
    assert (lengths["all with the longer answer"]["min"], lengths["all with the longer answer"]["max"]) == (
        min(longest),
        max(longest),
    )
    both = [prompt + sum(map(len, one.responses.values())) for prompt, one in zip(prompts, encoded, strict=True)]
    assert lengths["all with both answers"]["max"] == max(both)
    assert sum(bar["count"] for bar in report["tokens"]["histogram"]) == 2

    limit = max(prompts) + 1  # room for one token: the trainer refuses the second record, as the report says it will
    over = check_preferences(CheckRequest(path, processor, max_length=limit))
    assert [one["where"] for one in over["tokens"]["over_long_records"]] == [f"{path}:2"]
    assert "leave no room for an answer" in over["fatal"][0]
    cut = check_preferences(CheckRequest(path, processor, max_length=max(longest) - 1))
    assert (cut["tokens"]["over_long"], cut["tokens"]["cut_answers"]) == (0, 1) and not cut["fatal"]


def test_a_context_is_counted_as_the_trainer_counts_it_and_cut_answers_have_no_end_token(folder: Path) -> None:
    from aligners.base import CHOSEN, REJECTED
    from aligners.preferences import read_preferences
    from aligners.training.encoding import Encoder

    processor = tiny_parts()[1]
    context = "There is a red dog on the left of the picture."
    path = jsonl(folder / "d.jsonl", [row("0.png", shared_context=context, responses_end=False)])
    [example] = read_preferences(path).examples
    encoded = Encoder(processor, (CHOSEN, REJECTED), 4096, corrections=None).encode(example)
    prefix = len(encoded.prefixes["original"])
    lengths = check_preferences(CheckRequest(path, processor))["tokens"]["lengths"]
    assert lengths["image and prompt"]["max"] == prefix
    assert {name: lengths[name]["max"] for name in ("chosen", "rejected")} == {
        name: len(ids) for name, ids in encoded.responses.items()
    }
    ended = jsonl(folder / "e.jsonl", [row("0.png", shared_context=context)])
    whole = check_preferences(CheckRequest(ended, processor))["tokens"]["lengths"]
    assert whole["chosen"]["max"] == lengths["chosen"]["max"] + 1
    over = check_preferences(CheckRequest(path, processor, max_length=prefix + 1))  # the prompt alone would fit
    assert over["tokens"]["over_long"] == 1


def test_answers_behind_different_contexts_are_neither_repeated_nor_contradicting(folder: Path) -> None:
    rows = [
        row("0.png", shared_context="There is a cat."),
        row("0.png", shared_context="There is a dog."),
        row("0.png", chosen="a blue dog", rejected="a red cat", shared_context="There is a house."),
    ]
    duplicates = check_preferences(CheckRequest(jsonl(folder / "d.jsonl", rows)))["duplicates"]
    assert (duplicates["same_record"], duplicates["same_image_and_prompt"], duplicates["contradicting"]) == (0, 0, 0)
    again = check_preferences(CheckRequest(jsonl(folder / "e.jsonl", [rows[0], rows[0]])))["duplicates"]
    assert (again["same_record"], again["same_image_and_prompt"]) == (1, 2)


def test_records_that_align_skips_are_no_more_than_noted(folder: Path) -> None:
    """`align --on-error skip` skips what it cannot encode, so only data of which nothing is left would stop it."""
    from tokenizers import Regex, normalizers

    from aligners.dpo import DPO
    from aligners.preferences import read_preferences
    from aligners.training.encoding import encode_all
    from aligners.training.job import AlignJob
    from harness.core.config import TrainSettings

    processor = tiny_parts()[1]  # its tokenizer leaves out what it does not know, as some do
    processor.tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"[^\x00-\x7f]"), "")
    rows = [row("0.png"), row("1.png", prompt="Describe this image. " * 9), row("2.png", chosen="猫")]
    path = jsonl(folder / "d.jsonl", rows)
    longest = check_preferences(CheckRequest(path, processor))["tokens"]["lengths"]["image and prompt"]["max"]
    failed = check_preferences(CheckRequest(path, processor, max_length=longest))
    assert ["train.max_length" in failed["fatal"][0], "empty once encoded" in failed["fatal"][1]] == [True, True]
    skipped = check_preferences(CheckRequest(path, processor, max_length=longest, on_error="skip"))
    assert not skipped["fatal"]
    assert [line.endswith("they are skipped") for line in skipped["warnings"][:2]] == [True, True]
    train = TrainSettings(max_length=longest)
    job = AlignJob("model", path, folder / "run", train, folder / "cache", on_error="skip")
    examples = read_preferences(path).examples
    encoded, refused = encode_all(processor, examples, DPO(), job)
    assert (len(encoded), len(refused)) == (1, 2)
    none = jsonl(folder / "none.jsonl", rows[1:])
    left = check_preferences(CheckRequest(none, processor, max_length=longest, on_error="skip"))
    assert left["fatal"] == ["all records are skipped, so none is left to train on"]


def test_control_tokens_in_texts_are_fatal(folder: Path) -> None:
    path = jsonl(folder / "d.jsonl", [row("0.png"), row("1.png", id="ends", chosen="a cat</s> and more")])
    for processor in (None, tiny_parts()[1]):  # without a model, the control tokens that families share
        report = check_preferences(CheckRequest(path, processor))
        [found] = report["control_tokens"]
        assert found == {"where": f"{path}:2", "id": "ends", "text": "the chosen answer", "token": "</s>"}
        assert "d.jsonl:2: the chosen answer contains '</s>'" in report["fatal"][0]
        skipped = check_preferences(CheckRequest(path, processor, on_error="skip"))
        assert not skipped["fatal"] and "contain control tokens" in skipped["warnings"][0]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("COCO_val2014_000000310196.jpg", 310196),
        ("multimodal_self-rewarding_0222_qa__000000032909.jpg", 32909),
        ("train2017/000000581929.jpg", 581929),
        ("qa__000133173.jpg", None),  # nine digits are another data set's
        ("000000999999.jpg", None),  # COCO has no such number
        ("0123456789012345.jpg", None),
        ("2375304.jpg", None),
    ],
)
def test_coco_numbers_in_names(name: str, number: int | None) -> None:
    assert coco_number(name) == number


def test_images_of_evaluation_sets_are_found_by_number_content_and_look(folder: Path) -> None:
    photograph(folder / "smaller.jpg", 2, (140, 105))
    plain = folder / "plain.png"
    Image.new("RGB", (50, 50), "white").save(plain)
    suite = EvaluationSet(
        "suite",
        {
            "a": ImageRef(path=folder / "1.png"),
            "b": ImageRef(path=folder / "smaller.jpg"),
            "c": ImageRef(path=folder / "not here" / "COCO_val2014_000000000042.jpg"),
            "d": ImageRef(path=plain),
        },
    )
    training = {f"{number}.png": ImageRef(path=folder / f"{number}.png") for number in range(4)}
    training["000000000042.jpg"] = ImageRef(path=folder / "3.png")
    training["white"] = ImageRef(path=plain.rename(folder / "renamed.png"))
    Image.new("RGB", (60, 60), "white").save(plain)
    (overlap,) = overlaps(training, [suite])
    assert overlap.by_coco_number == ("000000000042.jpg",)
    assert overlap.by_content == ("1.png",)
    assert set(overlap.by_look) == {"1.png", "2.png"}
    assert overlap.all == ["000000000042.jpg", "1.png", "2.png"]


def test_the_coco_number_at_the_end_of_a_long_stored_path_is_found(tmp_path: Path) -> None:
    """Where a suite's images are not on this machine, their numbers are the only evidence."""
    number, stored = "000000000042.jpg", "/data/user/preferences/made in 2024/images of the first half/"
    picture = {"bytes": photograph(tmp_path / "x.png", 0).read_bytes(), "path": f"{stored}{number}"}
    pq.write_table(pa.Table.from_pylist([row("") | {"image": picture}]), tmp_path / "d.parquet")
    suite = EvaluationSet("suite", {number: ImageRef(path=tmp_path / "not here" / f"COCO_val2014_{number}")})
    report = check_preferences(CheckRequest(str(tmp_path / "d.parquet"), evaluation=[suite]))
    assert len(stored) > 60 and report["first"]["image"] == picture["path"]
    assert (report["overlap"][0]["shared"], report["overlap"][0]["by_coco_number"]) == (1, 1)


def test_shared_images_are_counted_once_and_their_pairs_apart(folder: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    rows = [row("0.png", prompt=f"What is {number}?") for number in range(9)] + [row("copy.png"), row("1.png")]
    suite = EvaluationSet("pope", {"0.png": ImageRef(path=folder / "0.png")})
    report = check_preferences(CheckRequest(jsonl(folder / "d.jsonl", rows), evaluation=[suite]))
    [shared] = report["overlap"]
    counts = ("images_of_the_suite", "shared", "pairs", "by_content", "by_look", "by_coco_number")
    assert [shared[name] for name in counts] == [1, 1, 10, 1, 1, 0] and len(shared["examples"]) == 1
    assert report["warnings"] == ["1 image is also in pope; 10 pairs have it"]


def test_photographs_differ_in_their_look(conformance: Path) -> None:
    """Of the 57 photographs only copies are alike: at half the size, stored anew as JPEG of low quality."""
    paths = sorted((conformance / "data" / "RLAIF-V").rglob("*.jpg"))
    looks = []
    for path in paths:
        with Image.open(path) as image:
            whole = look(image)
            half = look(image.convert("RGB").resize((image.width // 2, image.height // 2)))
        assert whole is not None and half is not None
        assert int(np.bitwise_count(whole ^ half).sum()) <= 32
        looks.append(whole)
    apart = [int(np.bitwise_count(a ^ b).sum()) for place, a in enumerate(looks) for b in looks[:place]]
    assert len(paths) == 57 and min(apart) > 64


def test_a_benchmarks_questions_name_its_images_before_the_images_are_here(tmp_path: Path) -> None:
    (tmp_path / "pope").mkdir()
    question = {"question_id": 1, "image": "COCO_val2014_000000000042.jpg", "text": "Is there a dog?", "label": "no"}
    (tmp_path / "pope" / "coco_pope_random.json").write_text(json.dumps(question) + "\n")
    sets = {one.suite: one for one in evaluation_sets(tmp_path)}
    assert len(sets["pope"].images) == 1 and sets["amber"].missing
    photograph(tmp_path / "x.png", 0)
    training = {"COCO_train2014_000000000042.jpg": ImageRef(path=tmp_path / "x.png")}
    assert overlaps(training, [sets["pope"]])[0].by_coco_number == ("COCO_train2014_000000000042.jpg",)


def check(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "harness", "data", "check", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
    )


@pytest.mark.slow
def test_the_command(folder: Path) -> None:
    model, processor = tiny_parts()
    export_full(model, processor, folder / "model")
    jsonl(folder / "good.jsonl", [row(f"{number}.png") for number in range(4)])
    done = check("good.jsonl", "--model", "./model", cwd=folder)
    assert done.returncode == 0, done.stderr
    for said in (
        "good.jsonl  format plain",
        "4, of which 4 can be used",
        "tokens of ./model",
        "image and prompt",
        "align would accept",
    ):
        assert said in done.stdout
    jsonl(folder / "bad.jsonl", [row("0.png"), row("../0.png"), row("1.png", chosen=4)])
    done = check("bad.jsonl", cwd=folder)
    assert done.returncode == 2
    assert "bad.jsonl:2: the image path leaves the data folder: ../0.png" in done.stdout
    assert "bad.jsonl:3: 'chosen' is a whole number, not text: 4" in done.stdout
    assert "align would stop: 2 of 3 records cannot be used" in done.stdout
    assert check("bad.jsonl", "--on-error", "skip", cwd=folder).returncode == 0
    both = json.loads(check("bad.jsonl", "pope", "--json", cwd=folder).stdout)
    assert both["preferences"][0]["usable"] == 1 and both["files"][0]["data"] == "pope"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pop"], "did you mean pope"),
        (["none.jsonl"], "preference data does not exist"),
        (["x.jsonl", "--format", "plane"], "did you mean plain"),
        (["x.jsonl", "--format", "trl"], "not the columns of the format trl"),
        (["x.jsonl", "--model", "./none"], "no checkpoint folder"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, folder: Path) -> None:
    jsonl(folder / "x.jsonl", [row("0.png")])
    done = check(*arguments, cwd=folder)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
