"""The four suites on cases worked by hand: every expected number below was computed on paper from the definitions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.amber import AMBER, SECTIONS, AmberSettings
from benchmarks.base import Benchmark
from benchmarks.halbench import HalBenchSettings, ObjectHalBench
from benchmarks.mmhal import TYPES, MMHalBench, MMHalSettings, parse_official, parse_strict
from benchmarks.pope import POPE
from benchmarks.yesno import pope_official, strict
from harness.errors import BadInputError, HarnessError
from harness.judging.base import Judge, JudgeReply, JudgeRequest
from harness.stats import Counts, resampled
from harness.types import Response


def jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def offline(benchmark: Benchmark, files: dict[str, Path]) -> tuple[dict[str, float], dict[str, str]]:
    items, responses = benchmark.read_offline(files)
    totals = Counts.of(benchmark.score(items, responses, benchmark.offline_judge)).totals()
    return {name: float(value) for name, value in benchmark.aggregate(totals).items()}, benchmark.official(totals)


@pytest.mark.parametrize(
    "benchmark", [ObjectHalBench(), AMBER(AmberSettings(nouns="spacy", similarity="exact")), POPE(), MMHalBench()]
)
def test_metrics_are_what_aggregate_returns(benchmark: Benchmark) -> None:
    class Ones(dict[str, np.ndarray]):
        def __missing__(self, key: str) -> np.ndarray:
            return np.array([1.0, 2.0, 0.0])

    values = benchmark.aggregate(Ones())
    assert {spec.id for spec in benchmark.metrics} == set(values)
    assert all(np.shape(value) == (3,) for value in values.values()), "one value a resample"
    assert len({spec.id for spec in benchmark.metrics}) == len(benchmark.metrics)
    assert any(spec.headline for spec in benchmark.metrics)


# --- Object HalBench ---------------------------------------------------------------------------------------------------------

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


# --- POPE --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "official", "read"),
    [
        ("Yes", "yes", "yes"),
        ("no", "no", "no"),
        ("No", "no", "no"),
        ("NO", "yes", "no"),
        ("no!", "yes", "no"),
        ("No;", "yes", "no"),
        ("\nNo", "yes", "no"),
        ("None", "yes", None),
        ("cannot", "yes", None),
        ("isn't", "yes", None),
        ("", "yes", None),
        ("Yes, no other objects", "no", "yes"),
        ("It is not there", "no", None),
        ("Sorry. There is no dog", "yes", None),
        ("Mr. Smith says no", "yes", None),
        ("No,there", "yes", "no"),
        ("No, there is no dog.", "no", "no"),
        ("I know", "yes", None),
    ],
)
def test_yes_and_no(answer: str, official: str, read: str | None) -> None:
    assert pope_official(answer) == official
    assert strict(answer) == read


def pope_rows(labels: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"question_id": place, "image": "a.jpg", "text": "Is there?", "label": label}
        for place, label in enumerate(labels, 1)
    ]


def test_pope_by_hand(tmp_path: Path) -> None:
    questions = jsonl(tmp_path / "coco_pope_popular.json", pope_rows(["yes", "yes", "no", "no", "no"]))
    said = ["yes", "no", "None of it", "No!", "no"]  # official: yes no yes yes no; strict: yes no - no no
    # Not in the order of the questions: matched by id.
    answers = jsonl(
        tmp_path / "r.jsonl", [{"question_id": place, "answer": text} for place, text in enumerate(said, 1)][::-1]
    )
    values, official = offline(POPE(), {"questions": questions, "responses": answers})
    expected = {"accuracy": 2 / 5, "precision": 1 / 3, "recall": 1 / 2, "f1": 0.4, "yes_ratio": 3 / 5}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert {name: values[f"popular.{name}"] for name in expected} == pytest.approx(expected)
    # The unreadable answer to a "no" question is wrong, and it is no "yes".
    assert values["accuracy[strict]"] == pytest.approx(3 / 5) and values["yes_ratio[strict]"] == pytest.approx(1 / 5)
    assert values["unreadable"] == pytest.approx(1 / 5)
    assert np.isnan(values["random.accuracy"])
    assert official["accuracy"] == "0.4" and official["yes_ratio"] == "0.6"


def test_pope_mean_of_splits(tmp_path: Path) -> None:
    for split, labels in (("random", ["yes"]), ("popular", ["yes", "no"]), ("adversarial", ["yes", "no", "no", "no"])):
        jsonl(tmp_path / f"coco_pope_{split}.json", pope_rows(labels))
    items = (benchmark := POPE()).items(tmp_path)
    totals = Counts.of(benchmark.score(items, {item.id: Response(item.id, "yes") for item in items})).totals()
    values = benchmark.aggregate(totals)
    assert float(values["accuracy"]) == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)
    assert float(values["f1"]) == pytest.approx((1 + 2 / 3 + 0.4) / 3)
    assert benchmark.official(totals) == {}, "the script prints one split"


def test_pope_bad_files(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="missing"):
        POPE().items(tmp_path)
    questions = jsonl(tmp_path / "coco_pope_random.json", pope_rows(["yes"]) * 2)
    with pytest.raises(BadInputError, match="twice"):
        POPE().items(tmp_path)
    jsonl(questions, pope_rows(["yes", "no"]))
    answers = jsonl(tmp_path / "r.jsonl", [{"question_id": 1, "answer": "yes"}] * 2)
    with pytest.raises(BadInputError, match="twice"):
        POPE().read_offline({"questions": questions, "responses": answers})
    with pytest.raises(BadInputError, match="--questions"):
        POPE().read_offline({"responses": answers})


# --- AMBER -------------------------------------------------------------------------------------------------------------------

ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["road", "ground", "dog", "dog"], "hallu": ["cat", "tree"]},
    {"id": 2, "type": "generative", "truth": ["sky"], "hallu": ["bird"]},
    {"id": 3, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 4, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 5, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 6, "type": "relation", "truth": "no"},
    {"id": 7, "type": "discriminative-relation", "truth": "yes"},
]
RELATIONS = {
    "road": ["street", "ground"],
    "dog": ["puppy"],
    "cat": ["kitten"],
    "tree": [],
    "sky": [],
    "bird": [],
    "plant": [],
    "light": [],
}


@pytest.fixture
def amber_files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "annotations.json").write_text(json.dumps(ANNOTATIONS))
    (tmp_path / "relation.json").write_text(json.dumps(RELATIONS))
    (tmp_path / "safe_words.txt").write_text("light\n")
    return {
        "annotations": tmp_path / "annotations.json",
        "relations": tmp_path / "relation.json",
        "safe_words": tmp_path / "safe_words.txt",
        "responses": tmp_path / "r.json",
    }


def amber(similarity: str = "exact") -> AMBER:
    return AMBER(AmberSettings(nouns="spacy", similarity=similarity))


def test_amber_descriptions_by_hand(amber_files: dict[str, Path]) -> None:
    said = [
        # light: safe. ground: an association of "road", which stands before "ground" itself. puppy: the first dog.
        # dog: again the first. kitten: marks cat, and is flagged. plant: flagged. horse: not in the vocabulary.
        {"id": 1, "response": "light ground puppy dogs kitten plant horse"},
        {"id": 2, "response": ""},
    ]
    amber_files["responses"].write_text(json.dumps(said))
    items, responses = (benchmark := amber()).read_offline(amber_files)
    assert [item.id for item in items] == ["1", "2"], "a file of descriptions is no partial file of answers"
    first, second = benchmark.score(items, responses)
    assert first.details["kept"] == ["light", "ground", "puppy", "dog", "kitten", "plant"]
    assert first.details["flags"] == [0, 0, 0, 0, 1, 1]
    assert first.details["cover"] == [1, 0, 1, 0] and first.details["cog"] == [1, 0]
    assert second.counts["clean"] == 1, "a description without known nouns does not hallucinate"
    values = benchmark.aggregate(totals := Counts.of([first, second]).totals())
    rates = {name: float(values[f"generative.{name}"]) for name in ("chair", "cover", "hal", "cog")}
    assert rates == pytest.approx({"chair": 2 / 6, "cover": 2 / 5, "hal": 1 / 2, "cog": 1 / 3})
    # Each denominator of the script is 0.001 too large: 2/6.001, 2/5.001, 100 - 100/2.001, 1/3.001.
    assert [benchmark.official(totals)[f"generative.{name}"] for name in rates] == ["33.3", "40.0", "50.0", "33.3"]


def test_amber_similarity_clears_and_marks(amber_files: dict[str, Path], tmp_path: Path) -> None:
    """A noun similar to a target of hallucination and to a true object counts in Cog and not in CHAIR."""
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"pairs": [["plant", "tree"], ["sky", "plant"], ["plant", "ground"]]}))
    amber_files["responses"].write_text(json.dumps([{"id": 1, "response": "plant"}]))
    items, responses = (benchmark := amber(f"table:{table}")).read_offline(amber_files)
    score = benchmark.score([item for item in items if item.id in responses], responses)[0]
    # Similar to "ground" first as an association of "road".
    assert score.details["flags"] == [0] and score.details["cover"] == [1, 0, 0, 0] and score.details["cog"] == [0, 1]
    assert benchmark.variant == "spacy+table" and "sha256" in benchmark.provenance()["similarity"]


def test_amber_answers_by_hand(amber_files: dict[str, Path]) -> None:
    answers = {3: "No", 4: "Yes", 5: "no.", 6: "Yes", 7: "No"}
    amber_files["responses"].write_text(json.dumps([{"id": name, "response": text} for name, text in answers.items()]))
    values, official = offline(benchmark := amber(), amber_files)
    # Exact: right 3, 4; "No" said 2 times, once rightly; true no 3. Tolerant: 5 is right, too.
    assert values["discriminative.accuracy"] == pytest.approx(2 / 5) and values[
        "discriminative.accuracy[tolerant]"
    ] == pytest.approx(3 / 5)
    assert values["discriminative.precision"] == pytest.approx(1 / 2) and values[
        "discriminative.recall"
    ] == pytest.approx(1 / 3)
    assert values["discriminative.f1"] == pytest.approx(0.4)
    assert values["discriminative.precision[tolerant]"] == pytest.approx(2 / 3)
    assert values["existence.f1"] == 1 and values["number.accuracy"] == 0 and values["relation.accuracy"] == 0
    assert values["attribute.accuracy"] == pytest.approx(1 / 2) and np.isnan(values["action.accuracy"])
    assert values["parsers_differ"] == pytest.approx(1 / 5)
    assert np.isnan(values["amber_score"]), "there are no descriptions"
    assert benchmark.name == "amber" and "generative.chair" not in official
    # 1/2.001 -> 50.0, 1/3.001 -> 33.3; F1 from the rounded ones, 0.0001 in the denominator: 0.39973 -> 40.0
    assert [official[f"discriminative.{name}"] for name in ("accuracy", "precision", "recall", "f1")] == [
        "40.0",
        "50.0",
        "33.3",
        "40.0",
    ]
    assert [official[f"existence.{name}"] for name in ("precision", "recall", "f1")] == ["99.9", "99.9", "99.9"], (
        "1/1.001"
    )


def test_amber_f1_of_existence_has_a_constant_of_its_own() -> None:
    """Precision 100 and recall 50: 1/1.501 for existence, 1/1.5001 elsewhere."""
    totals = {
        f"{section}.{cell}": np.array(0.0)
        for section in SECTIONS
        for cell in ("correct", "count", "truth_no", "answered_no", "correct_no")
    }
    for section in ("existence", "state"):
        totals |= {
            f"{section}.correct_no": np.array(500.0),
            f"{section}.answered_no": np.array(500.0),
            f"{section}.truth_no": np.array(1000.0),
        }
    official = amber().official(totals | {"generative": np.array(0.0), "discriminative.count": np.array(1.0)})
    assert (official["existence.f1"], official["state.f1"]) == ("66.6", "66.7")


def test_amber_score_by_hand(amber_files: dict[str, Path]) -> None:
    rows = [
        {"id": 1, "response": "dog kitten"},
        {"id": 2, "response": "sky"},
        {"id": 3, "response": "No"},
        {"id": 5, "response": "Yes"},
    ]
    jsonl(amber_files["responses"], rows)  # JSON lines will do as well
    items, responses = (benchmark := amber()).read_offline(amber_files)
    assert len(items) == 7
    values = benchmark.aggregate(
        Counts.of(benchmark.score([item for item in items if item.id in responses], responses)).totals()
    )
    chair, f1 = 1 / 3, 2 * 1 * 0.5 / 1.5
    assert float(values["amber_score"]) == pytest.approx((1 - chair + f1) / 2)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"id": 8, "response": "Yes"}], "no annotation"),
        ([{"id": 0, "response": "Yes"}], "no annotation"),
        ([{"id": 3, "response": "Yes"}] * 2, "twice"),
        ([{"id": 3}], "a response is"),
        ([{"response": "Yes"}], "a response is"),
    ],
)
def test_amber_bad_responses(amber_files: dict[str, Path], rows: list[dict[str, Any]], problem: str) -> None:
    amber_files["responses"].write_text(json.dumps(rows))
    with pytest.raises(BadInputError, match=problem):
        amber().read_offline(amber_files)


def test_amber_unknown_similarity(amber_files: dict[str, Path], tmp_path: Path) -> None:
    amber_files["responses"].write_text(json.dumps([{"id": 1, "response": "dog"}]))
    for name, problem in (
        ("vectors", "unknown similarity"),
        ("spacy:no_such_pipeline", "not installed"),
        (f"table:{tmp_path}/no.json", "not exist"),
    ):
        items, responses = (benchmark := amber(name)).read_offline(amber_files)
        with pytest.raises(BadInputError, match=problem):
            benchmark.score([item for item in items if item.id in responses], responses)


# --- MMHal-Bench -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "official", "read"),
    [
        ("Rating: 5, very informative", 5, 5),
        ("RATING: 0", 0, 0),
        ("Rating:5", 0, 5),
        ("Rating 5", 0, 5),
        ("**Rating**: 5", 0, 5),
        ("Rating: 10", 1, None),
        ("Rating: 7", 0, None),
        ("Rating: 4 ... Rating: 4", 4, 4),
        ("Rating: 4, no, Rating: 5", 0, None),
        ("Rating: 3.5", 3, None),
        ("", 0, None),
        ("I cannot say.", 0, None),
    ],
)
def test_ratings(reply: str, official: int, read: int | None) -> None:
    assert parse_official(reply) == official
    assert parse_strict(reply) == read


def test_mmhal_by_hand(tmp_path: Path) -> None:
    replies = ["Rating: 6", "Rating: 2", "Rating: 3", "no idea"]
    path = jsonl(tmp_path / "reviews.jsonl", [{"index": place, "review": text} for place, text in enumerate(replies)])
    items, responses = (benchmark := MMHalBench()).read_offline({"reviews": path})
    scores = benchmark.score(items, responses, benchmark.offline_judge)
    assert [score.unscored is None for score in scores] == [True, True, True, False] and not scores[3].counts
    values = benchmark.aggregate(Counts.of(scores).totals())
    assert float(values["score"]) == pytest.approx(11 / 3) and float(values["hallucination_rate"]) == pytest.approx(
        1 / 3
    )
    assert float(values["informativeness"]) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert float(values["score.attribute"]) == 6 and np.isnan(float(values["score.counting"]))
    # The script counts the unreadable reply as 0 and as a hallucination: 11/4, 2/4, (1 + 2/3)/4.
    official = benchmark.official_of(scores)
    assert (official["score"], official["hallucination_rate"], official["informativeness"]) == ("2.75", "0.50", "41.67")
    assert official["score.counting"] == "0.00"
    with pytest.raises(BadInputError, match="twice"):
        MMHalBench().read_offline({"reviews": jsonl(path, [{"index": 1, "review": ""}] * 2)})


class Recorder(Judge):
    """Keeps what it is asked; says nothing of the second item."""

    name = "recorder"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        for place, request in reversed(list(enumerate(requests))):
            self.prompts.append(request.prompt)
            yield JudgeReply(request.item.id, None if place == 1 else "Rating: 1", "time-out" if place == 1 else None)

    def provenance(self) -> dict[str, Any]:
        return {"judge": self.name}


def test_mmhal_asks_the_judge(tmp_path: Path) -> None:
    rows = [
        {
            "question_type": kind,
            "question_topic": "t",
            "image_id": str(place),
            "image_src": f"https://host/{place}.jpg",
            "image_content": ["dog {question}"],
            "question": f"Q{place}?",
            "gt_answer": f"G{place}",
        }
        for place, kind in enumerate(TYPES)
    ]
    (tmp_path / "response_template.json").write_text(json.dumps(rows))
    benchmark = MMHalBench()
    items = benchmark.items(tmp_path)
    assert items[3].image.path == tmp_path / "images" / "3.jpg" and items[3].prompt == "Q3?"
    responses = {item.id: Response(item.id, f"A{item.id} {{gt_answer}}") for item in items}
    judge = Recorder()
    scores = benchmark.score(items, responses, judge)
    assert [score.item_id for score in scores] == [item.id for item in items], (
        "in the order of the items, whatever the judge's"
    )
    assert "time-out" in (scores[1].unscored or "")
    # What stands in braces in an answer is the answer's, and no field.
    prompt = next(one for one in judge.prompts if "Q3?" in one)
    assert "A3 {gt_answer}" in prompt and "G3" in prompt and "dog {question}" in prompt and "Rating: N" in prompt
    template = tmp_path / "template.txt"
    template.write_text("{question}|{gt_answer}|{model_answer}")
    MMHalBench(MMHalSettings(template=template)).score(items, responses, judge)
    assert "Q0?|G0|A0 {gt_answer}" in judge.prompts
    with pytest.raises(HarnessError, match="judge"):
        benchmark.score(items, responses)


# --- all ---------------------------------------------------------------------------------------------------------------------


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
