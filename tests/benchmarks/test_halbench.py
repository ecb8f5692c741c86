"""Object HalBench on cases worked by hand: every expected number below was computed on paper from the definitions."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.halbench import HalBenchSettings, ObjectHalBench
from harness.errors import BadInputError
from harness.stats import Counts, resampled
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
        }
    )
    assert official == {}, "only the official parser has official digits"


def test_halbench_official_digits(chair_files: dict[str, Path], nltk_ready: None) -> None:
    # "men" is no person to the official parser, so image 3 has no ground truth and "man" is wrong there:
    # mentions dog, dog, couch, frisbee, man, horse; wrong frisbee, man, horse; found dog, couch of dog, couch, cat.
    values, official = offline(ObjectHalBench(HalBenchSettings(extractor="nltk")), chair_files)
    assert values["chair_i"] == 3 / 6 and values["object_recall"] == 2 / 3
    assert official == {
        "chair_s": "50.0",
        "chair_s_refine": "100.0",
        "chair_i": "50.0",
        "object_recall": "66.67",
        "mean_length": "5.2",
    }


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
        ([{"image_id": 9, "text": "A dog."}], "9 is not in the annotations"),
        ([{"image_id": 1}], "no 'text'"),
        ([{"image_id": 1, "text": 5}], "no 'text'"),
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
    weights = np.random.default_rng(1).multinomial(size, np.full(size, 1 / size), size=50)
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
