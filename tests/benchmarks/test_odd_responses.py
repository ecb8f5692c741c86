"""Responses of every odd kind score without a crash and in time; broken files are named with the checksum that was expected."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.amber import AMBER, AmberSettings
from benchmarks.halbench import HalBenchSettings, ObjectHalBench
from benchmarks.pope import POPE
from harness.core.errors import BadInputError
from harness.core.files import write_jsonl
from harness.datasets.catalogue import find
from harness.evaluation.score import item_rows, score_suite
from tests.benchmarks.scoring import jsonl

MEGABYTE = 1 << 20
ODD: dict[str, Any] = {
    "empty": "",
    "null": None,
    "number": 12,
    "list": ["a", "dog"],
    "half a character": "a \ud800 dog",
    "nul": "a\x00dog, a dog",
    "one word of a megabyte": "a" * MEGABYTE,
    "many words": "dog " * (MEGABYTE // 8),
    "marks": "?!" * (MEGABYTE // 4),
    "quotes": "\"'" * (MEGABYTE // 4),
    "full stops": "a." * (MEGABYTE // 2),
    "chinese": "一只狗在沙发上。" * 1000,
    "arabic": "كلب dog",
    "emoji": "🐶 dog 🐶",
    "blanks": "\t\n  dog\u00a0",
    "longer in lower case": "İ dog İİİ dog",
}


@pytest.mark.slow
@pytest.mark.parametrize("extractor", ["spacy", pytest.param("nltk", marks=pytest.mark.exhaustive)])
def test_halbench(extractor: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if extractor == "nltk":
        request.getfixturevalue("nltk_ready")
    gt = jsonl(tmp_path / "gt.jsonl", [{"image_id": 1, "instances": ["dog"], "captions": []}])
    responses = jsonl(tmp_path / "r.jsonl", [{"image_id": 1, "text": text} for text in ODD.values()])
    benchmark = ObjectHalBench(HalBenchSettings(extractor=extractor))
    items, answers = benchmark.read_offline({"annotations": gt, "responses": responses})
    started = time.monotonic()
    record, scores = score_suite(benchmark, items, answers)
    assert time.monotonic() - started < 60
    named = dict(zip(ODD, scores, strict=True))
    assert record.n == len(ODD) and not named["empty"].counts["mentions"] and not named["null"].counts["mentions"]
    for kind in ("half a character", "arabic", "emoji", "blanks"):
        [mention] = named[kind].evidence
        assert mention.label == "dog" and mention.span is not None
        assert ODD[kind][slice(*mention.span)] == "dog", kind
    assert named["many words"].counts["mentions"] == MEGABYTE // 8
    write_jsonl(tmp_path / "items.jsonl", (row.written() for row in item_rows(items, answers, scores)))
    rows = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[list(ODD).index("half a character")]["text"] == ODD["half a character"]


@pytest.mark.slow
@pytest.mark.parametrize("nouns", ["spacy", pytest.param("nltk", marks=pytest.mark.exhaustive)])
def test_amber(nouns: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if nouns == "nltk":
        request.getfixturevalue("nltk_ready")
    half = len(ODD)
    annotations = [{"id": n, "type": "generative", "truth": ["dog"], "hallu": ["cat"]} for n in range(1, half + 1)]
    annotations += [{"id": n, "type": "discriminative-relation", "truth": "yes"} for n in range(half + 1, 2 * half + 1)]
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    (tmp_path / "relation.json").write_text(json.dumps({"dog": ["puppy"]}))
    (tmp_path / "safe.txt").write_text("")
    responses = jsonl(
        tmp_path / "r.jsonl", [{"id": n, "response": text} for n, text in enumerate([*ODD.values()] * 2, 1)]
    )
    benchmark = AMBER(AmberSettings(nouns=nouns, similarity="exact"))
    files = {
        "annotations": tmp_path / "a.json",
        "relations": tmp_path / "relation.json",
        "safe_words": tmp_path / "safe.txt",
    }
    items, answers = benchmark.read_offline({**files, "responses": responses})
    record, _ = score_suite(benchmark, items, answers)
    assert record.n == 2 * half and record.metrics["discriminative.accuracy"].value == 0
    assert record.files["relation.json"].startswith("sha256:")


def test_pope(tmp_path: Path) -> None:
    rows = [{"question_id": n, "image": "a", "text": "?", "label": "yes"} for n in range(len(ODD))]
    questions = jsonl(tmp_path / "coco_pope_random.json", rows)
    responses = jsonl(tmp_path / "r.jsonl", [{"question_id": n, "answer": text} for n, text in enumerate(ODD.values())])
    items, answers = (benchmark := POPE()).read_offline({"questions": questions, "responses": responses})
    record, _ = score_suite(benchmark, items, answers)
    assert record.n == len(ODD) and record.metrics["unreadable"].value == 1
    jsonl(responses, [{"question_id": 0}])
    with pytest.raises(BadInputError, match="no 'answer'"):
        POPE().read_offline({"questions": questions, "responses": responses})


def test_a_broken_file_is_named_with_the_expected_checksum(tmp_path: Path) -> None:
    known = {Path(file["path"]).name: file["sha256"] for file in (*find("amber").files, *find("pope").files)}
    (tmp_path / "annotations.json").write_text('[{"id": 1, "type": "gen')
    for name in ("relation.json", "safe_words.txt", "r.jsonl"):
        (tmp_path / name).write_text("{}")
    files = {
        "annotations": tmp_path / "annotations.json",
        "relations": tmp_path / "relation.json",
        "safe_words": tmp_path / "safe_words.txt",
        "responses": tmp_path / "r.jsonl",
    }
    with pytest.raises(BadInputError, match=known["annotations.json"]):
        AMBER().read_offline(files)
    (tmp_path / "coco_pope_random.json").write_text('{"question_id": 1}\n')
    with pytest.raises(BadInputError, match=known["coco_pope_random.json"]):
        POPE().items(tmp_path)
