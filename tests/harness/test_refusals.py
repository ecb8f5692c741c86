"""A model that declines to answer is neither right nor free of hallucination: its item is unscored, with its words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.runs.responses import ResponseLog
from harness.runs.score import item_rows, score_suite
from harness.serving.base import Completion
from harness.types import ImageRef, Item, Response

WORDS = "I'm sorry, I can't help with that."


def answers() -> tuple[list[Item], dict[str, Response]]:
    """Ten pictures of a dog: nine descriptions, of which three name a cat, and a refusal."""
    items = [
        Item(str(n), "Describe.", ImageRef(name=str(n)), str(n), {"instances": ["dog"], "captions": []})
        for n in range(10)
    ]
    texts = ["A dog and a cat." if n < 3 else "A dog." for n in range(9)]
    found = {str(n): Response(str(n), text) for n, text in enumerate(texts)}
    return items, found | {"9": Response("9", "", "stop", 10, 5, refusal=WORDS)}


def test_a_refusal_is_unscored_with_its_words() -> None:
    from benchmarks.halbench import ObjectHalBench

    items, responses = answers()
    record, scores = score_suite(ObjectHalBench(), items, responses, max_unscored=0.1)
    assert (record["n"], record["unscored"]) == (9, 1)
    assert record["metrics"]["chair_s"]["value"] == pytest.approx(3 / 9), "a refusal counts as free of hallucination"
    assert [score.item_id for score in scores] == [item.id for item in items]
    assert not scores[9].counts and WORDS in str(scores[9].unscored)
    assert WORDS in item_rows(items, responses, scores)[9]["unscored"]
    with pytest.raises(HarnessError, match=r"1 of 10 items could not be scored.*gave no answer: I'm sorry"):
        score_suite(ObjectHalBench(), items, responses)


def test_only_refusals_are_no_score() -> None:
    from benchmarks.halbench import ObjectHalBench

    items, _ = answers()
    with pytest.raises(HarnessError, match="no item could be scored"):
        responses = {item.id: Response(item.id, "", refusal=WORDS) for item in items}
        score_suite(ObjectHalBench(), items, responses, max_unscored=1.0)


def test_the_log_keeps_refusals_and_reads_what_was_written_before_there_were_any(tmp_path: Path) -> None:
    with ResponseLog(tmp_path) as log:
        log.add("1", "a", Completion("x", "base", "A dog.", "stop", 10, 3), "openai", "weights")
        log.add("2", "b", Completion("y", "base", "", "stop", None, None, refusal=WORDS), "openai", "weights")
    rows = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    assert "refusal" not in rows[0] and rows[1]["refusal"] == WORDS
    with ResponseLog(tmp_path) as log:
        first, second = log.get("1", "a"), log.get("2", "b")
    assert first == Response("1", "A dog.", "stop", 10, 3)
    assert second is not None and second.refusal == WORDS and second.completion_tokens is None
    assert ResponseLog.peek_lengths(tmp_path) == [3]
