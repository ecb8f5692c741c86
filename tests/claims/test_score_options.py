"""Each option of `score` and `calibrate` does what it says: the commands with and without it, against a judge on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.objects import llm_parser
from harness.remote.endpoint import KEY_VARIABLE
from tests.benchmarks.scoring import jsonl
from tests.benchmarks.test_llm_extraction import pipeline as pipeline
from tests.claims.test_eval_options import Mute
from tests.commands import json_here as run
from tests.harness.evaluation.test_score_command import files
from tests.harness.judging.fake_endpoint import SECRET, FakeServer, serving


class Listing(Mute):
    """Lists an object of each description but the first."""

    @classmethod
    def words(cls, prompt: str, kind: str, turn: int) -> str:
        cls.first = cls.first or prompt
        return "I never say." if prompt == cls.first else '["dog"]'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Official files and responses of several suites, and three rated answers."""
    files(tmp_path)
    jsonl(tmp_path / "rated.jsonl", [{"prompt": f"good:{number}", "rating": 4 - number % 2} for number in range(3)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def judge() -> Iterator[FakeServer]:
    with serving() as running:
        yield running


CHAIR = ["score", "--suite", "chair", "--annotations", "gt.jsonl", "--responses", "chair.jsonl"]


@pytest.mark.claims("score --suite", "score --annotations", "score --responses", "score --json", "score --items")
def test_files_of_descriptions(here: Path) -> None:
    record = run(*CHAIR, "--items", "items.jsonl")
    assert (record["suite"], record["n"], record["counts"]["mentions"]) == ("chair", 1, 2)
    [row] = [json.loads(line) for line in (here / "items.jsonl").read_text().splitlines()]
    assert row["text"] == "A dog and a teddy bear."
    jsonl(here / "more.jsonl", [{"image_id": 1, "instances": ["dog", "teddy bear"], "captions": []}])
    other = run(*CHAIR, "--annotations", "more.jsonl")
    assert record["metrics"]["chair_s"]["value"] == 1.0 and other["metrics"]["chair_s"]["value"] == 0.0


@pytest.mark.claims("score --synonyms", "score --matched-words", "score --extractor")
def test_what_is_taken_for_an_object(here: Path) -> None:
    assert run(*CHAIR)["counts"]["mentions"] == 2
    assert run(*CHAIR, "--synonyms", "syn.txt")["counts"]["mentions"] == 1
    assert run(*CHAIR, "--matched-words", "2")["counts"]["matched_mentions"] == 1
    assert "no_such_pipeline" in run(*CHAIR, "--extractor", "spacy:no_such_pipeline", code=2)


@pytest.mark.claims("score --questions", "score --reviews", "score --allow-partial")
def test_files_of_questions_and_reviews(here: Path) -> None:
    pope = ["score", "--suite", "pope", "--questions", "q_random.json", "--responses", "pa.jsonl"]
    assert run(*pope)["metrics"]["random.accuracy"]["value"] == 1.0
    turned = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "no"}
    jsonl(here / "no_random.json", [turned])
    assert run(*pope, "--questions", "no_random.json")["metrics"]["random.accuracy"]["value"] == 0.0
    jsonl(here / "two_random.json", [turned, turned | {"question_id": 2}])
    assert "--allow-partial" in run(*pope, "--questions", "two_random.json", code=2)
    assert run(*pope, "--questions", "two_random.json", "--allow-partial")["n"] == 1
    mmhal = ["score", "--suite", "mmhal", "--reviews"]
    assert run(*mmhal, "rev.jsonl")["metrics"]["score"]["value"] == 4.0
    jsonl(here / "worse.jsonl", [{"index": 0, "review": "Rating: 1"}])
    assert run(*mmhal, "worse.jsonl")["metrics"]["score"]["value"] == 1.0


@pytest.mark.claims("score --relations", "score --safe-words", "score --similarity")
def test_files_of_amber(here: Path) -> None:
    """A safe word is nobody's invention, a relation makes a word another one, and so does likeness."""
    (here / "amber.json").write_text(json.dumps([{"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["cat"]}]))
    (here / "rel.json").write_text(json.dumps({"dog": ["puppy"], "cat": ["kitten"], "tree": ["bush"]}))
    jsonl(here / "ar.jsonl", [{"id": 1, "response": "A puppy and a tree."}])
    begin = ["score", "--suite", "amber", "--annotations", "amber.json", "--responses", "ar.jsonl"]
    usual = ["--relations", "rel.json", "--safe-words", "safe.txt", "--similarity", "exact"]

    def value(name: str, *more: str) -> float:
        return float(run(*begin, *usual, *more)["metrics"][name]["value"])

    assert (value("generative.cover"), value("generative.chair")) == (1.0, 0.5)
    (here / "safe.txt").write_text("tree\n")
    assert value("generative.chair") == 0.0
    (here / "other.json").write_text(json.dumps({"dog": [], "cat": [], "tree": ["puppy"]}))
    assert value("generative.cover", "--relations", "other.json") == 0.0
    assert "no_such" in run(*begin, *usual, "--similarity", "table:no_such.csv", code=2)


@pytest.mark.claims(
    "score --judge", "score --judge-model", "score --judge-url", "score --judge-price", "score --max-cost", "score --set",
    "score --max-unscored",
)  # fmt: skip
def test_a_judge_reads_descriptions(
    here: Path, judge: FakeServer, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item of which it says nothing that can be read has no verdict. A pipeline with a tagger must be installed for it."""
    import spacy

    monkeypatch.setattr(llm_parser.LlmExtractor, "_pipeline", lambda self: spacy.load(pipeline))
    jsonl(here / "chair.jsonl", [{"image_id": 1, "text": f"A dog and a {name} bear."} for name in ("teddy", "brown")])
    judge.RequestHandlerClass, Listing.first = Listing, ""
    llm = [*CHAIR, "--extractor", "llm", "--judge-url", judge.url, "--judge-model", "strict", "--set", "judge.asks=1"]
    assert "--max-unscored" in run(*llm, code=1) and judge.asked.total() == 2
    record = run(*llm, "--max-unscored", "1", "--judge-price", "1,10", "--set", "judge.temperature=0.5")
    assert record["judge"]["answered_by"] == ["strict-2024-08-06"] and judge.asked.total() == 4
    assert record["judge"]["took"]["usd"] == pytest.approx(2 * (1000 * 1 + 100 * 10) / 1e6)
    assert [temperature for asked in judge.temperatures.values() for temperature in asked] == [0.0, 0.5] * 2
    poor = ["--set", "judge.temperature=0.6", "--judge-price", "1,10", "--max-cost", "0.00001"]
    assert "budget" in run(*llm, *poor, code=1)
    assert "nobody" in run(*llm, "--judge", "nobody", code=2)


@pytest.mark.claims(
    "calibrate --reference", "calibrate --suite", "calibrate --judge", "calibrate --judge-model", "calibrate --judge-url",
    "calibrate --judge-votes", "calibrate --judge-price", "calibrate --max-cost", "calibrate --set", "calibrate --json",
)  # fmt: skip
def test_calibrate(here: Path, judge: FakeServer) -> None:
    begin = ["calibrate", "--reference", "rated.jsonl", "--judge-url", judge.url, "--judge-model", "strict"]
    found = run(*begin)
    assert found["reference"]["exact"] == pytest.approx(2 / 3) and set(judge.asked.values()) == {2}
    run(*begin, "--judge-votes", "3")
    assert set(judge.asked.values()) == {3}, "two votes were there"
    run(*begin, "--set", "judge.temperature=0.5")
    assert {max(asked) for asked in judge.temperatures.values()} == {0.5}
    poor = [*begin, "--set", "judge.temperature=0.6", "--judge-price", "1,10", "--max-cost"]
    assert "budget" in run(*poor, "0.00001", code=1)
    run(*poor, "1")
    assert "nobody" in run(*begin, "--judge", "nobody", code=2)
    assert "nothing" in run(*begin, "--suite", "nothing", code=2)
