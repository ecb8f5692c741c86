"""AMBER on cases worked by hand: every expected number below was computed on paper from the definitions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.amber import AMBER, SECTIONS, AmberSettings
from harness.core.errors import BadInputError
from harness.core.stats import Counts
from harness.core.types import ImageRef, Item, Response
from tests.benchmarks.scoring import jsonl, offline

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
    assert benchmark.variant.startswith("spacy+table:table-") and "sha256" in benchmark.provenance()["similarity"]


def test_another_pipeline_has_its_name_in_the_metrics(tmp_path: Path) -> None:
    import spacy

    names = []
    for word in ("tree", "bush"):
        nlp = spacy.blank("en")
        nlp.vocab.set_vector(word, np.ones(4, dtype=np.float32))
        nlp.to_disk(tmp_path / "own")
        names.append(amber(f"spacy:{tmp_path / 'own'}").variant)
    assert all(re.fullmatch(r"spacy\+spacy:own-[0-9a-f]{8}", name) for name in names) and names[0] != names[1]


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


def test_amber_answers_are_read_with_their_question() -> None:
    """ "There is a dog" answers one question and not another; a file of answers alone has no questions."""
    annotation = {"annotation": {"type": "discriminative-hallucination", "truth": "yes"}}
    for question, said, read in (
        ("Is there a dog in this image?", "There is a dog.", "yes"),
        ("Is there a dog in this image? Yes or no?", "There is no cat, but there is a dog.", "yes"),
        ("Is there a dog in this image?", "There is no cat.", None),
        ("", "There is a dog.", None),
    ):
        [score] = amber().score([Item("1", question, ImageRef(), "1", annotation)], {"1": Response("1", said)})
        assert score.details["read"] == read and score.details["said"] is None, said


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
        ([{"id": 3}], "no 'response'"),
        ([{"response": "Yes"}], "no .id."),
        ([{"id": 1.9, "response": "Yes"}], "whole number"),
        ([{"id": True, "response": "Yes"}], "whole number"),
    ],
)
def test_amber_bad_responses(amber_files: dict[str, Path], rows: list[dict[str, Any]], problem: str) -> None:
    amber_files["responses"].write_text(json.dumps(rows))
    with pytest.raises(BadInputError, match=problem):
        amber().read_offline(amber_files)


def test_amber_broken_list_of_responses(amber_files: dict[str, Path]) -> None:
    amber_files["responses"].write_text('[{"id": 1, "response": "A dog."},', encoding="utf-8")
    with pytest.raises(BadInputError, match="responses is not valid JSON") as error:
        amber().read_offline(amber_files)
    assert error.value.where == f"{amber_files['responses']}:1"


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
