"""Object HalBench's LLM mode: what the judge lists, what the tagger makes of it, what is counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import spacy

from benchmarks import halbench
from benchmarks.halbench import HalBenchSettings, ObjectHalBench
from benchmarks.objects import read_vocabulary
from benchmarks.objects.doubles import double_words, found_doubles
from benchmarks.objects.llm_parser import LlmExtractor, read_objects
from harness.core.errors import BadInputError, UnknownNameError
from harness.core.stats import Counts
from harness.judging.base import Judge, JudgeReply, JudgeRequest
from tests.benchmarks.scoring import jsonl

ADJECTIVES = ("wooden", "red", "hot", "big")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real spaCy pipeline with tags and lemmas, by rule: everything is a noun but a few adjectives and small words."""
    nlp = spacy.blank("en")
    ruler: Any = nlp.add_pipe("attribute_ruler")
    nlp.add_pipe("lemmatizer", config={"mode": "lookup"})
    nlp.initialize()
    ruler.add([[{"IS_ALPHA": True}]], {"TAG": "NN", "POS": "NOUN"})
    for word in ADJECTIVES:
        ruler.add([[{"LOWER": word}]], {"TAG": "JJ", "POS": "ADJ"})
    for word in ("of", "a", "the", "and"):
        ruler.add([[{"LOWER": word}]], {"TAG": "IN", "POS": "ADP"})
    folder = tmp_path_factory.mktemp("pipeline")
    nlp.to_disk(folder)
    return folder


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('["dog", "frisbee"]', ["dog", "frisbee"]),
        ('Here you are:\n```json\n["a dog "]\n```', ["a dog"]),
        ("[]", []),
        ("- a dog\n- two cats", ["a dog", "two cats"]),
        ("1. dog\n2) cat", ["dog", "cat"]),
        ("There is a dog.", None),
        ('["dog", 3]', None),
        ('["dog"', None),
        ("", None),
    ],
)
def test_the_judges_list(reply: str, expected: list[str] | None) -> None:
    assert read_objects(reply) == expected


def test_words_of_phrases(pipeline: Path) -> None:
    parser = LlmExtractor(read_vocabulary(), str(pipeline))
    assert parser.words(["wooden chairs", "the cup of coffee", "dogs", "dog"]) == ["chair", "cup", "coffee", "dog"]
    # A double word alone counts of its phrase; a run of nouns stays together.
    phrases = ["stop sign pole", "baby elephant", "kitchen table"]
    assert parser.words(phrases) == ["stop sign", "elephant", "kitchen table"]
    assert parser.words(["hot", "red"]) == []


def test_the_seat_of_a_toilet_is_no_chair(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("chair, seat\ntoilet\n")
    parser = LlmExtractor(read_vocabulary(tmp_path / "words.txt"))
    assert [one.label for one in parser.mentions(["toilet", "seat"], "")] == ["toilet"]
    assert [one.label for one in parser.mentions(["seat", "Toilet"], "")] == ["chair"]


class Lister(Judge):
    """Lists what stands behind "objects:" in the description."""

    name = "lister"

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        for request in requests:
            self.asked.append(request.item.id)
            said = request.prompt.rpartition("Description:")[2]
            listed = json.dumps(said.partition("objects:")[2].split(","))
            yield JudgeReply(request.item.id, "no idea" if "?" in said else listed)

    def provenance(self) -> dict[str, Any]:
        return {"judge": self.name}


@pytest.mark.claims("halbench.extractor", "halbench.pipeline")
def test_scores_by_hand(tmp_path: Path, pipeline: Path) -> None:
    truth = [{"image_id": 1, "instances": ["dog", "chair"], "captions": []}]
    texts = [
        "There are objects: dogs, a wooden chair, a horse, dog",  # dog, chair, horse: one of three is wrong
        "Just a horse",  # three words: nothing is asked, nothing is named
        "What are the objects: horse?",  # cannot be read
    ]
    files = {
        "annotations": jsonl(tmp_path / "gt.jsonl", truth),
        "responses": jsonl(tmp_path / "r.jsonl", [{"image_id": 1, "text": text} for text in texts]),
    }
    benchmark = ObjectHalBench(HalBenchSettings(extractor="llm", pipeline=str(pipeline)))
    assert benchmark.needs_judge and not ObjectHalBench().needs_judge
    items, responses = benchmark.read_offline(files)
    judge = Lister()
    assert re.fullmatch(r"llm\+lister, own prompt, pipeline\d+-[0-9a-f]{8}", benchmark.variant_with(judge))
    scores = benchmark.score(items, responses, judge)
    assert judge.asked == ["1#0", "1#2"]
    assert [piece.label for piece in scores[0].evidence] == ["dog", "chair", "horse"]
    assert scores[0].counts["hallucinated_mentions"] == 1 and scores[1].counts["mentions"] == 0
    assert scores[2].unscored and "cannot be parsed" in scores[2].unscored
    values = benchmark.aggregate(Counts.of(scores).totals())
    benchmark._synonyms = tmp_path / "official.txt"
    assert benchmark.official(Counts.of(scores).totals()) == {}, (
        "neither the prompt nor the pipeline is the official one"
    )
    assert float(values["chair_i"]) == pytest.approx(1 / 3) and float(values["object_recall"]) == 2 / 4


def test_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="nltk"):
        ObjectHalBench(HalBenchSettings(extractor="nltkk"))
    with pytest.raises(BadInputError, match="cannot be loaded"):
        LlmExtractor(read_vocabulary(), str(tmp_path)).words(["dog"])
    files = {
        "annotations": jsonl(tmp_path / "gt.jsonl", [{"image_id": 1, "instances": [], "captions": []}]),
        "responses": jsonl(tmp_path / "r.jsonl", [{"image_id": 1, "text": "", "objs": "dog"}]),
    }
    with pytest.raises(BadInputError, match="not a list"):
        ObjectHalBench(HalBenchSettings(extractor="llm")).read_offline(files)


def test_double_words() -> None:
    doubles = double_words(read_vocabulary())
    assert found_doubles(["a", "baby", "bear", "on", "the", "train", "track"], doubles) == ["bear", "train track"]
    assert found_doubles(["hot", "hot", "dog"], doubles) == ["hot dog"] and found_doubles([], doubles) == []


def test_any_installed_pipeline_extracts(tmp_path: Path, pipeline: Path) -> None:
    truth = [{"image_id": 1, "instances": ["chair"], "captions": []}]
    files = {
        "annotations": jsonl(tmp_path / "gt.jsonl", truth),
        "responses": jsonl(tmp_path / "r.jsonl", [{"image_id": 1, "text": "A wooden chair, an orange and two dogs."}]),
    }
    benchmark = ObjectHalBench(HalBenchSettings(extractor=f"spacy:{pipeline}"))
    items, responses = benchmark.read_offline(files)
    [score] = benchmark.score(items, responses)
    assert [piece.label for piece in score.evidence] == ["chair", "orange", "dog"]
    assert benchmark.provenance()["pipeline"] == "en_pipeline"
    with pytest.raises(BadInputError, match="en_core_web_none"):
        wrong = ObjectHalBench(HalBenchSettings(extractor="spacy:en_core_web_none"))
        wrong.score(*wrong.read_offline(files))


@pytest.mark.claims("halbench.template")
def test_the_official_prompt_is_read_from_its_script(
    tmp_path: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "annotations": jsonl(tmp_path / "gt.jsonl", [{"image_id": 1, "instances": [], "captions": []}]),
        "responses": jsonl(tmp_path / "r.jsonl", [{"image_id": 1, "text": "There is a {question} here."}]),
    }
    script = tmp_path / "eval_gpt_obj_halbench.py"
    script.write_text('prompt_template = """Q: {question} A: {answer} L: [\\"a\\"]"""\nraise SystemExit\n')
    benchmark = ObjectHalBench(HalBenchSettings(extractor="llm", template=script))
    [request] = benchmark.judge_requests(*benchmark.read_offline(files))
    assert request.prompt == 'Q:  A: There is a {question} here. L: ["a"]'
    assert "sha256:" in benchmark.provenance()["prompt"]
    assert re.fullmatch("prompt [0-9a-f]{8}", benchmark.prompt_kind())
    monkeypatch.setattr(halbench, "OFFICIAL_PROMPT", benchmark._template[1])
    assert benchmark.prompt_kind() == "" and ObjectHalBench().prompt_kind() == ""
    script.write_text("prompt_template = 'nothing'")
    with pytest.raises(BadInputError, match="no placeholder for the description"):
        ObjectHalBench(HalBenchSettings(extractor="llm", template=script)).judge_requests(
            *benchmark.read_offline(files)
        )
