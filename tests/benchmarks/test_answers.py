"""Files that other tools wrote: labels, ids, names of images and answers are read as what they plainly are, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.amber import AMBER, AmberSettings
from benchmarks.answers import AnswerRow, PackedResponses
from benchmarks.chair import CHAIR
from benchmarks.halbench import ObjectHalBench
from benchmarks.mmhal import MMHalBench
from benchmarks.pope import POPE
from harness.core.errors import BadInputError
from harness.core.inside import Folder
from harness.core.types import Response
from tests.benchmarks.scoring import jsonl, offline

MARK = "\ufeff"


def questions(path: Path, labels: list[Any]) -> Path:
    return jsonl(
        path,
        [
            {"question_id": n, "image": "a.jpg", "text": f"Is there {n}?", "label": label}
            for n, label in enumerate(labels, 1)
        ],
    )


def test_pope_labels_in_any_case_are_read_and_said_and_the_scripts_number_stands_beside(tmp_path: Path) -> None:
    asked = questions(tmp_path / "q_random.json", ["Yes", "NO ", "yes", "no"])
    answers = jsonl(
        tmp_path / "r.jsonl",
        [{"question_id": n, "answer": text} for n, text in enumerate(["Yes", "No", "No", "No"], 1)],
    )
    benchmark = POPE()
    values, official = offline(benchmark, {"questions": asked, "responses": answers})
    assert values["accuracy"] == 3 / 4 and values["recall"] == 1 / 2 and values["precision"] == 1
    # The script takes "NO " for yes: three yes, of which one was said, and one no.
    assert official["accuracy"] == "0.5" and official["recall"] == str(1 / 3) and official["precision"] == "1.0"
    assert len(benchmark.notes) == 1 and "2 labels" in benchmark.notes[0]


@pytest.mark.parametrize("label", [None, True, 0, "maybe", "", "nope", ["no"]])
def test_pope_labels_that_say_nothing_are_refused(tmp_path: Path, label: Any) -> None:
    questions(tmp_path / "coco_pope_random.json", ["yes", label])
    with pytest.raises(BadInputError, match="label") as caught:
        POPE().items(tmp_path)
    assert caught.value.where == f"{tmp_path / 'coco_pope_random.json'}:2"


def amber_files(
    folder: Path, rows: list[dict[str, Any]], answers: list[dict[str, Any]], mark: str = ""
) -> dict[str, Path]:
    contents = {
        "annotations": json.dumps(rows),
        "relations": json.dumps({"dog": ["puppy"], "cat": [], "picture": []}),
        "safe_words": "picture\nimage\n",
        "responses": json.dumps(answers),
    }
    for name, text in contents.items():
        (folder / name).write_text(mark + text, encoding="utf-8")
    return {name: folder / name for name in contents}


def test_amber_truths_in_any_case_are_read_and_said_and_the_scripts_number_stands_beside(tmp_path: Path) -> None:
    kind = "discriminative-attribute-state"
    rows = [{"id": n, "type": kind, "truth": truth} for n, truth in enumerate(("Yes", "yes", "No", "no"), 1)]
    said = [{"id": n, "response": text} for n, text in enumerate(("Yes", "Yes", "No", "No"), 1)]
    benchmark = AMBER(AmberSettings(nouns="spacy", similarity="exact"))
    values, official = offline(benchmark, amber_files(tmp_path, rows, said))
    assert values["state.accuracy"] == values["state.precision"] == values["state.recall"] == 1
    # The script takes "Yes" and "No" for a no: 3 of 4 right; three to be found, two found; of two "No" one was to a truth "no".
    shown = {name: official[f"state.{name}"] for name in ("accuracy", "precision", "recall")}
    assert shown == {"accuracy": "75.0", "precision": "50.0", "recall": "66.6"}
    assert len(benchmark.notes) == 1 and "2 truths" in benchmark.notes[0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": 1, "type": "generative", "truth": "dog", "hallu": []}, "'truth' is a text, not a list"),
        ({"id": 1, "type": "generative", "truth": ["dog"]}, "no 'hallu'"),
        ({"id": 1, "type": "generative", "truth": [["dog"]], "hallu": []}, "a list of texts"),
        ({"id": 1, "type": "discriminative", "truth": "yes"}, "not one of generative"),
        ({"id": 1, "type": "relation", "truth": None}, "truth"),
        ({"id": 1, "type": "relation", "truth": "maybe"}, "not one of yes, no"),
        ({"id": 2, "type": "relation", "truth": "yes"}, "has the id 2"),
        ({"id": 1.5, "type": "relation", "truth": "yes"}, "whole number"),
    ],
)
def test_amber_annotations_of_another_form_are_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        AMBER().read_offline(amber_files(tmp_path, [row], []))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    rows = [{"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["cat"]}]
    files = amber_files(tmp_path, rows, [{"id": 1, "response": "A picture of a dog."}], mark=MARK)
    values, _ = offline(AMBER(AmberSettings(nouns="spacy", similarity="exact")), files)
    assert values["generative.chair"] == 0
    synonyms = tmp_path / "synonyms.txt"
    synonyms.write_text(MARK + "dog, puppy\ncat\n", encoding="utf-8")
    truth = jsonl(tmp_path / "gt.jsonl", [{"image_id": 1, "instances": ["dog"], "captions": []}])
    said = jsonl(tmp_path / "said.jsonl", [{"image_id": 1, "text": "A puppy and a dog."}])
    for path in (truth, said):
        path.write_text(MARK + path.read_text(encoding="utf-8"), encoding="utf-8")
    values, _ = offline(ObjectHalBench(), {"annotations": truth, "responses": said, "synonyms": synonyms})
    assert values["chair_i"] == 0 and values["object_recall"] == 1


def test_one_image_has_many_names(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"image_id": 42, "instances": ["dog"], "captions": []},
        {"image_id": "000000000073", "instances": ["cat"], "captions": []},
        {"image_id": "kitchen 3", "instances": ["cup"], "captions": []},
    ]
    truth = jsonl(tmp_path / "gt.jsonl", rows)
    names = [
        "42",
        "000000000042",
        "COCO_val2014_000000000042.jpg",
        "000000000042.jpg",
        42,
        73,
        "COCO_train2014_000000000073.png",
        "kitchen 3",
    ]
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"image_id": name, "caption": "A dog."} for name in names]))
    benchmark = ObjectHalBench()
    items, responses = benchmark.read_offline({"annotations": truth, "responses": results})
    assert [item.group for item in items] == ["42"] * 5 + ["000000000073"] * 2 + ["kitchen 3"]
    assert len({item.id for item in items}) == len(items) == len(responses)
    assert benchmark.notes == ["answers were read from caption"]
    for name in ("41", "4 2", "dog_42.txt", "val_042", "9" * 400):
        results.write_text(json.dumps([{"image_id": name, "caption": "A dog."}]))
        with pytest.raises(BadInputError, match="not in the annotations"):
            ObjectHalBench().read_offline({"annotations": truth, "responses": results})
    jsonl(truth, [*rows, {"image_id": "0073", "instances": [], "captions": []}])
    results.write_text(json.dumps([{"image_id": 73, "caption": "A dog."}]))
    with pytest.raises(BadInputError, match="not in the annotations"):  # two images have this number
        ObjectHalBench().read_offline({"annotations": truth, "responses": results})


@pytest.mark.parametrize("name", [None, 1.5, True, "", "  ", [1], {"a": 1}])
def test_what_is_no_name_is_refused(tmp_path: Path, name: Any) -> None:
    truth = jsonl(tmp_path / "gt.jsonl", [{"image_id": 1, "instances": ["dog"], "captions": []}])
    said = jsonl(tmp_path / "r.jsonl", [{"image_id": name, "text": "A dog."}])
    with pytest.raises(BadInputError, match="image_id"):
        ObjectHalBench().read_offline({"annotations": truth, "responses": said})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image_id": 1, "instances": "dog", "captions": []}, "'instances' is a text, not a list"),
        ({"image_id": 1, "instances": [None], "captions": []}, "list of texts"),
        ({"image_id": 1, "instances": [], "captions": [False]}, "list of texts"),
        ({"image_id": 1, "instances": []}, "captions"),
        ({"image_id": 1.9, "instances": [], "captions": []}, "image_id"),
    ],
)
def test_annotations_of_another_form_are_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    truth = jsonl(tmp_path / "gt.jsonl", [row])
    with pytest.raises(BadInputError, match=said):
        ObjectHalBench().read_offline({"annotations": truth, "responses": jsonl(tmp_path / "r.jsonl", [])})


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"answer": "Yes"}, "Yes"),
        ({"text": "Yes", "prompt": "Is there?", "answer_id": "k"}, "Yes"),
        ({"prediction": "Yes"}, "Yes"),
        ({"doc": {"answer": "no"}, "target": "no", "resps": [["Yes"]], "filtered_resps": ["Yes"]}, "Yes"),
        ({"doc": {}, "resps": [["Yes"]]}, "Yes"),
        ({"answer": None}, ""),
        ({"answer": 3}, "3"),
        ({"answer": "Yes", "text": "Is there a dog?"}, "Yes"),
        ({"answer": "Yes", "response": "Yes"}, "Yes"),
    ],
)
def test_where_an_answer_stands(row: dict[str, Any], text: str) -> None:
    assert AnswerRow(row, "r:1", ("answer", "text", "response", "prediction")).text == text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "no 'answer'; its keys are none"),
        ({"question_id": 1, "output": "Yes"}, "its keys are 'question_id', 'output'"),
        ({"answer": "no", "prediction": "Yes"}, "'answer' and 'prediction'"),
        ({"resps": [["Yes"], ["No"]]}, "2 answers"),
        ({"resps": [[3]]}, "not a text"),
    ],
)
def test_an_answer_that_is_not_plainly_one_is_refused(row: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        AnswerRow(row, "r:1", ("answer", "text", "response", "prediction"))


def test_a_refusal_is_no_answer(tmp_path: Path) -> None:
    asked = questions(tmp_path / "q_random.json", ["yes", "no"])
    rows = [{"question_id": 1, "answer": None, "refusal": "I cannot help."}, {"question_id": 2, "answer": None}]
    _, responses = POPE().read_offline({"questions": asked, "responses": jsonl(tmp_path / "r.jsonl", rows)})
    assert [responses[f"random/{n}"].refusal for n in (1, 2)] == ["I cannot help.", None]


def test_answers_without_ids_belong_to_questions_by_their_place(tmp_path: Path) -> None:
    asked = questions(tmp_path / "q_random.json", ["yes", "no"])
    rows = [{"question": "Is there 1?", "answer": "Yes"}, {"question": "Is there 2?", "answer": "Yes"}]
    path = tmp_path / "answers.json"
    values, _ = offline(benchmark := POPE(), {"questions": asked, "responses": jsonl(path, rows)})
    assert values["accuracy"] == 1 / 2 and "order" in benchmark.notes[0]
    for wrong, said in (
        (rows[:1], "1 are not 2"),
        (rows[::-1], "the question of this one is 'Is there 2\\?'"),
        ([*rows[:1], {"question_id": 2, "answer": "No"}], "no 'question_id'"),
    ):
        with pytest.raises(BadInputError, match=said):
            POPE().read_offline({"questions": asked, "responses": jsonl(path, wrong)})
    with pytest.raises(BadInputError, match="a question, not a response"):
        POPE().read_offline({"questions": asked, "responses": asked})


def test_samples_of_other_splits_are_left_out_and_said(tmp_path: Path) -> None:
    asked = questions(tmp_path / "coco_pope_popular.json", ["yes"])
    rows = [
        {"doc": {"question_id": "1", "category": kind}, "resps": [[said]], "filtered_resps": [said]}
        for kind, said in (("random", "No"), ("popular", "Yes"))
    ]
    values, _ = offline(benchmark := POPE(), {"questions": asked, "responses": jsonl(tmp_path / "r.jsonl", rows)})
    assert values["popular.accuracy"] == 1 and "random were ignored" in benchmark.notes[0]


def test_an_index_far_beyond_the_questions_is_refused_at_once(tmp_path: Path) -> None:
    for index in (30_000_000, 96, 9223372036854775808, False, "x", 1.5):
        path = jsonl(
            tmp_path / "r.jsonl", [{"index": 0, "review": "Rating: 3"}, {"index": index, "review": "Rating: 3"}]
        )
        with pytest.raises(BadInputError, match="index"):
            MMHalBench().read_offline({"reviews": path})


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "link.png", "sub/../../secret.png", "loop.png", "a\0b"]
)
def test_no_image_of_a_benchmark_leaves_its_folder(tmp_path: Path, name: str) -> None:
    suites = {"pope": "images", "amber": "image", "chair": "images", "halbench": "images", "mmhal": "images"}
    (tmp_path / "secret.png").write_bytes(b"x")
    for suite, pictures in suites.items():
        folder = tmp_path / suite / pictures
        folder.mkdir(parents=True)
        (tmp_path / suite / "secret.png").write_bytes(b"x")
        (folder / "link.png").symlink_to(tmp_path / "secret.png")
        (folder / "loop.png").symlink_to(folder / "loop.png")
        with pytest.raises(BadInputError, match=r"leaves the data folder|neither a file"):
            _items(tmp_path / suite, suite, name)


def _items(folder: Path, suite: str, name: str) -> None:
    coco = folder / ("coco" if suite == "amber" else "annotations")
    coco.mkdir()
    (coco / "instances.json").write_text(
        '{"categories": [{"id": 1, "name": "dog"}], "annotations": [{"image_id": 1, "category_id": 1}]}'
    )
    (coco / "captions.json").write_text('{"annotations": [{"image_id": 1, "caption": "a dog"}]}')
    if suite == "pope":
        jsonl(folder / "coco_pope_random.json", [{"question_id": 1, "image": name, "text": "?", "label": "yes"}])
        POPE().items(folder)
    elif suite == "amber":
        (folder / "data" / "query").mkdir(parents=True)
        files = amber_files(folder, [{"id": 1, "type": "relation", "truth": "yes"}], [])
        for option, place in (
            ("annotations", "annotations.json"),
            ("relations", "relation.json"),
            ("safe_words", "safe_words.txt"),
        ):
            files[option].replace(folder / "data" / place)
        (folder / "data" / "query" / "query_all.json").write_text(json.dumps([{"id": 1, "image": name, "query": "?"}]))
        AMBER().items(folder)
    elif suite == "chair":
        jsonl(folder / "questions.jsonl", [{"image_id": 1, "image": name, "question": "?"}])
        CHAIR().items(folder)
    elif suite == "halbench":
        jsonl(folder / "obj_halbench_300_with_image.jsonl", [{"image_id": 1, "image": name, "question": "?"}])
        ObjectHalBench().items(folder)
    else:  # images by the last part of their source, which cannot climb, and may be a link
        (folder / "images" / Path(name).name).unlink(missing_ok=True) if "\0" not in name else None
        if "\0" not in name:
            (folder / "images" / Path(name).name).symlink_to("/etc/passwd")
        row = {"image_src": name, "image_content": [], "question": "?", "gt_answer": ""}
        (folder / "response_template.json").write_text(json.dumps([row]))
        MMHalBench().items(folder)


def test_a_folder_of_images_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "val").mkdir(parents=True)
    (tmp_path / "elsewhere" / "val" / "a.jpg").write_bytes(b"x")
    (tmp_path / "images").symlink_to(tmp_path / "elsewhere")
    questions(tmp_path / "coco_pope_random.json", ["yes"])
    assert POPE().items(tmp_path)[0].image.path == tmp_path / "images" / "a.jpg"
    assert Folder(tmp_path / "images").path("val/a.jpg", "x").is_file()


def test_packed_responses_are_those_that_were_put_in() -> None:
    rng = np.random.default_rng(0)
    texts = {f"i{n}": "dog \ud800 é \0" * int(rng.integers(0, 9)) for n in range(1000)}
    packed = PackedResponses()
    for name, text in texts.items():
        packed.add(Response(name, text, refusal="no" if name == "i7" else None))
    assert list(packed) == list(texts) and len(packed) == 1000 and "i999" in packed and "i1000" not in packed
    for name in ("i0", "i999", "i256", "i255", "i7", *texts):
        assert packed[name] == Response(name, texts[name], refusal="no" if name == "i7" else None)
    with pytest.raises(KeyError):
        _ = packed["i1000"]
