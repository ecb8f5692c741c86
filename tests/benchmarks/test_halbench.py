"""Object HalBench on cases worked by hand: every expected number below was computed on paper from the definitions."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.chair import CHAIR
from benchmarks.chair_counts import end_of_words
from benchmarks.coco import coco_truth
from benchmarks.halbench import HalBenchSettings, ObjectHalBench
from harness.core.errors import BadInputError
from harness.core.stats import Counts, resampled, resampling_weights
from harness.core.types import Response
from harness.evaluation.score import check_coverage
from tests.benchmarks.scoring import jsonl, offline

TRUTH = [
    {"image_id": 1, "instances": ["dog", "dog"], "captions": ["A puppy near a sofa."]},  # dog, couch
    {"image_id": 2, "instances": ["cat"], "captions": []},
    {"image_id": 3, "instances": [], "captions": ["Two men."]},  # person
]
SAID = [
    {"image_id": 1, "text": "A dog and a dog on a couch with a frisbee."},  # 4 mentions, 1 wrong, 2 classes; 11 words
    {"image_id": 2, "text": "Nothing to see here."},  # no mention; 4 words
    {"image_id": 3, "text": "A man rides a horse."},  # 2 mentions, 1 wrong, 1 class; 5 words
    {"image_id": 3, "text": ""},  # no mention; 1 word, as the official count has it
]


@pytest.fixture
def chair_files(tmp_path: Path) -> dict[str, Path]:
    return {"annotations": jsonl(tmp_path / "gt.jsonl", TRUTH), "responses": jsonl(tmp_path / "r.jsonl", SAID)}


def test_halbench_by_hand(chair_files: dict[str, Path]) -> None:
    values, official = offline(ObjectHalBench(), chair_files)
    assert values == pytest.approx(
        {
            "chair_s": 2 / 4,
            "chair_s_refine": 2 / 2,
            "chair_i": 2 / 6,
            "object_recall": 3 / 5,
            "mean_length": 21 / 4,
            "object_f1": 2 * (4 / 6) * 0.6 / (4 / 6 + 0.6),
            "response_f1": 0.0,
        }
    )
    assert official == {}, "only the official parser has official digits"


def test_halbench_official_digits(chair_files: dict[str, Path], nltk_ready: None, tmp_path: Path) -> None:
    # "men" is no person to the official parser, so image 3 has no ground truth and "man" is wrong there:
    # mentions dog, dog, couch, frisbee, man, horse; wrong frisbee, man, horse; found dog, couch of dog, couch, cat.
    settings = HalBenchSettings(extractor="nltk")
    values, official = offline(ObjectHalBench(settings), chair_files)
    assert values["chair_i"] == 3 / 6 and values["object_recall"] == 2 / 3
    assert official == {}, "with our own table of synonyms they are not what the official script prints"

    table = tmp_path / "synonyms.txt"
    table.write_text("person, man\ndog, puppy\ncat\nhorse\ncouch, sofa\nfrisbee\n")
    with_table, official = offline(ObjectHalBench(settings), chair_files | {"synonyms": table})
    assert with_table == values
    assert official == {
        "chair_s": "50.0",
        "chair_s_refine": "100.0",
        "chair_i": "50.0",
        "object_recall": "66.67",
        "mean_length": "5.2",
    }


def test_an_image_without_a_response_is_missing(tmp_path: Path) -> None:
    said = [row for row in SAID if row["image_id"] != 2]
    files = {"annotations": jsonl(tmp_path / "gt.jsonl", TRUTH), "responses": jsonl(tmp_path / "r.jsonl", said)}
    items, responses = ObjectHalBench().read_offline(files)
    with pytest.raises(BadInputError, match="1 of 4 items have no response: 2#0"):
        check_coverage(items, responses, allow_partial=False)
    assert len(check_coverage(items, responses, allow_partial=True)) == 3


def test_chair_at_matched_length(chair_files: dict[str, Path]) -> None:
    # Of five words each: "A dog and a dog", "Nothing to see here.", "A man rides a horse.", "".
    values, _ = offline(ObjectHalBench(HalBenchSettings(matched_words=5)), chair_files)
    assert values["chair_s_matched"] == 1 / 4 and values["chair_i_matched"] == 1 / 4
    # Of four: the horse and one dog are cut off.
    values, _ = offline(ObjectHalBench(HalBenchSettings(matched_words=4)), chair_files)
    assert values["chair_s_matched"] == 0 == values["chair_i_matched"] and values["chair_s"] == 2 / 4
    assert end_of_words("  a  bb\nccc ", 2) == 7 and end_of_words("one", 5) == 3


def test_halbench_nothing_said_is_undefined_and_not_zero(tmp_path: Path) -> None:
    files = {
        "annotations": jsonl(tmp_path / "gt.jsonl", TRUTH),
        "responses": jsonl(tmp_path / "r.jsonl", [{"image_id": 2, "text": "."}]),
    }
    values, _ = offline(ObjectHalBench(), files)
    assert (
        np.isnan(values["chair_i"])
        and np.isnan(values["chair_s_refine"])
        and values["chair_s"] == 0 == values["object_recall"]
    )


def test_halbench_speaker_is_removed_and_spans_stay(tmp_path: Path) -> None:
    text = "  Assistant: A dog. Assistant: A horse."
    files = {
        "annotations": jsonl(tmp_path / "gt.jsonl", TRUTH),
        "responses": jsonl(tmp_path / "r.jsonl", [{"image_id": 1, "text": text}]),
    }
    items, responses = (benchmark := ObjectHalBench()).read_offline(files)
    items = check_coverage(items, responses, allow_partial=True)
    score = benchmark.score(items, responses)[0]
    assert [(text[slice(*one.span)], one.verdict) for one in score.evidence if one.span] == [
        ("dog", "correct"),
        ("horse", "hallucinated"),
    ]
    assert [one.label for one in score.evidence if one.verdict == "missed"] == ["couch"]
    assert score.counts["words"] == len(["A", "dog.", "", "A", "horse."])


def test_halbench_data_folder(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").write_bytes(b"png")
    jsonl(
        tmp_path / "obj_halbench_300_with_image.jsonl",
        [
            {"image_id": 7, "question": "Describe.", "image": "one.png"},
            {"image_id": 7, "question": "Again.", "image": base64.b64encode(b"bytes").decode()},
        ],
    )
    instances = {"categories": [{"id": 5, "name": "dog"}], "annotations": [{"image_id": 7, "category_id": 5}]}
    (tmp_path / "annotations" / "instances_val2014.json").write_text(json.dumps(instances))
    with pytest.raises(BadInputError, match="captions"):
        ObjectHalBench().items(tmp_path)
    (tmp_path / "annotations" / "captions_val2014.json").write_text(
        json.dumps({"annotations": [{"image_id": 7, "caption": "A cat."}]})
    )
    items = ObjectHalBench().items(tmp_path)
    assert [item.image.read() for item in items] == [b"png", b"bytes"]
    assert len({item.id for item in items}) == 2 and {item.group for item in items} == {"7"}
    assert items[0].reference == {"instances": ["dog"], "captions": ["A cat."]}
    # The official table in the folder is taken, unless another is named.
    (tmp_path / "synonyms_refine.txt").write_text("dog, hound\n")
    benchmark = ObjectHalBench()
    benchmark.items(tmp_path)
    assert benchmark.provenance()["vocabulary"] == "synonyms_refine.txt"


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"image_id": 9, "text": "A dog."}], "'9' is not in the annotations"),
        ([{"image_id": 1}], "no 'text'"),
    ],
)
def test_halbench_bad_responses(tmp_path: Path, rows: list[dict[str, Any]], problem: str) -> None:
    files = {"annotations": jsonl(tmp_path / "gt.jsonl", TRUTH), "responses": jsonl(tmp_path / "r.jsonl", rows)}
    with pytest.raises(BadInputError, match=problem) as caught:
        ObjectHalBench().read_offline(files)
    assert "r.jsonl:1" in (caught.value.where or "")


def test_resamples_agree_with_scoring_the_resample(chair_files: dict[str, Path]) -> None:
    """A resample of counts gives what scoring the drawn images gives: aggregate is a pure function of sums."""
    items, responses = (benchmark := ObjectHalBench()).read_offline(chair_files)
    scores = benchmark.score(items, responses)
    counts = Counts.of(scores)
    drawn = benchmark.aggregate(resampled(counts, 50, seed=1))
    size = len(counts.clusters)
    weights = resampling_weights(size, 50, 1).astype(int)
    assert (weights.sum(1) == size).all()
    for number in range(50):
        chosen = [
            score
            for group, times in zip(counts.clusters, weights[number], strict=True)
            for score in scores
            if score.group == group
            for _ in range(times)
        ]
        wrong, said = (sum(score.counts[name] for score in chosen) for name in ("hallucinated_mentions", "mentions"))
        assert np.allclose(drawn["chair_i"][number], wrong / said if said else np.nan, equal_nan=True)


def coco_folder(folder: Path) -> Path:
    """Annotations of image 42: a dog (twice) and a caption with a cat."""
    folder.mkdir(parents=True)
    boxes = [{"image_id": 42, "category_id": 5}, {"image_id": 42, "category_id": 5}]
    instances = {"categories": [{"id": 5, "name": "dog"}], "annotations": boxes}
    (folder / "instances_val2014.json").write_text(json.dumps(instances))
    captions = {"annotations": [{"image_id": 42, "caption": "A cat."}]}
    (folder / "captions_val2014.json").write_text(json.dumps(captions))
    return folder


def test_the_index_of_annotations_is_kept_and_follows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = coco_folder(tmp_path / "annotations")
    first = coco_truth(folder)
    assert first == {"42": {"instances": ["dog"], "captions": ["A cat."]}}
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.coco.read_json", lambda *_: pytest.fail("the files were read again"))
        assert coco_truth(folder) == first
    captions = folder / "captions_val2014.json"
    captions.write_text(json.dumps({"annotations": [{"image_id": 42, "caption": "A red car."}]}))
    assert coco_truth(folder)["42"]["captions"] == ["A red car."]
    captions.write_text('{"annotations": [{"image_id": 42, "cap')
    with pytest.raises(BadInputError, match="not valid JSON"):
        coco_truth(folder)


def test_plain_chair_on_images_of_coco(tmp_path: Path) -> None:
    coco_folder(tmp_path / "halbench" / "annotations")
    data = tmp_path / "chair"
    (data / "images").mkdir(parents=True)
    with pytest.raises(BadInputError, match="no images"):
        CHAIR().items(data)
    (data / "images" / "COCO_val2014_000000000042.jpg").write_bytes(b"jpg")
    [item] = CHAIR().items(data)
    assert (item.group, item.prompt) == ("42", "Please describe this image in detail.")
    [score] = CHAIR().score([item], {item.id: Response(item.id, "A dog, a cat and a horse.")})
    assert score.counts["hallucinated_mentions"] == 1 and score.counts["found"] == 2
    jsonl(data / "questions.jsonl", [{"image_id": 42, "image": "a.png", "question": "What is it?"}] * 2)
    assert [one.prompt for one in CHAIR().items(data)] == ["What is it?"] * 2
    (data / "questions.jsonl").unlink()
    (data / "images" / "cat.png").write_bytes(b"png")
    with pytest.raises(BadInputError, match="COCO number"):
        CHAIR().items(data)
