"""POPE on cases worked by hand: every expected number below was computed on paper from the definitions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.answer_files import AnswerSet
from benchmarks.pope import POPE, POPEAOKVQA, POPEGQA
from benchmarks.pope_answers import match
from benchmarks.yesno import pope_official, tolerant
from harness.core.errors import BadInputError
from harness.core.stats import Counts
from harness.core.types import Response
from tests.benchmarks.scoring import jsonl, offline


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
        ("Sorry. There is no dog", "yes", "no"),
        ("Mr. Smith says no", "yes", None),
        ("No,there", "yes", "no"),
        ("No, there is no dog.", "no", "no"),
        ("I know", "yes", None),
    ],
)
def test_yes_and_no(answer: str, official: str, read: str | None) -> None:
    assert pope_official(answer) == official
    assert tolerant(answer) == read


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


def test_pope_split_of_a_file_is_a_whole_word_of_its_name(tmp_path: Path) -> None:
    for split, labels in (("random", ["yes", "yes"]), ("popular", ["no", "yes"]), ("adversarial", ["no", "no"])):
        jsonl(tmp_path / f"coco_pope_{split}.json", pope_rows(labels))
    items = POPE().items(tmp_path)
    said = [{"question_id": place, "answer": "No"} for place in (1, 2)]

    def matched(name: str, rows: list[dict[str, Any]] = said) -> list[str]:
        answers, path = AnswerSet(items), jsonl(tmp_path / name, rows)
        match(list(POPE().answer_rows(path)), path, answers)
        return sorted(answers.responses)

    assert matched("randomcrop_adversarial.jsonl") == ["adversarial/1", "adversarial/2"]
    assert matched("coco_pope_Popular2.jsonl") == ["popular/1", "popular/2"]
    with pytest.raises(BadInputError, match="several splits: random and adversarial") as problem:
        matched("random-adversarial.jsonl")
    assert problem.value.remedy and "rename" in problem.value.remedy
    labelled = [row | {"category": "popular"} for row in said]
    assert matched("random-adversarial-2.jsonl", labelled) == ["popular/1", "popular/2"], "the rows name their split"
    questions = jsonl(tmp_path / "random_popular.json", pope_rows(["yes", "yes"]))
    with pytest.raises(BadInputError, match="several splits"):
        POPE().read_offline({"questions": questions, "responses": jsonl(tmp_path / "r.jsonl", said)})


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


def test_pope_of_other_pictures(tmp_path: Path) -> None:
    (tmp_path / "pope" / "images").mkdir(parents=True)
    for folder, kind in (("pope-aokvqa", POPEAOKVQA), ("pope-gqa", POPEGQA)):
        data = tmp_path / folder
        data.mkdir()
        with pytest.raises(BadInputError, match=f"harness data get {folder}"):
            kind().items(data)
        name = f"{folder.removeprefix('pope-')}_pope_seem_random.json"
        (data / name).write_text(json.dumps(pope_rows(["yes", "no"])))
        items = kind().items(data)  # SEEM's files are one JSON array
        assert [item.id for item in items] == ["random/1", "random/2"]
        assert items[0].image.path == tmp_path / "pope" / "images" / "a.jpg"
        (data / "images").mkdir()
        assert kind().items(data)[0].image.path == data / "images" / "a.jpg"
        with pytest.raises(BadInputError, match="missing"):
            POPE().items(data)
