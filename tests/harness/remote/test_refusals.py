"""A model that declines to answer is neither right nor free of hallucination: its item is unscored, with its words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harness.core.errors import BadInputError, HarnessError
from harness.core.types import ImageRef, Item, Response
from harness.evaluation.responses import ResponseLog
from harness.evaluation.score import item_rows, score_suite
from harness.remote.endpoint import KEY_VARIABLE
from harness.remote.reply import Reason, Refused, Reply, read_reply
from harness.serving.base import Completion, Sampling
from tests.commands import run_here
from tests.harness.serving.fake_vision import DECLINED, SECRET, seeing, small_pope
from tests.tiny import tiny_photograph

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
    assert (record.n, record.unscored) == (9, 1)
    assert record.metrics["chair_s"].value == pytest.approx(3 / 9), "a refusal counts as free of hallucination"
    assert [score.item_id for score in scores] == [item.id for item in items]
    assert not scores[9].counts and WORDS in str(scores[9].unscored)
    assert WORDS in item_rows(items, responses, scores)[9].unscored
    with pytest.raises(HarnessError, match=r"1 of 10 items could not be scored.*gave no answer: I'm sorry"):
        score_suite(ObjectHalBench(), items, responses)


def test_only_refusals_are_no_score() -> None:
    from benchmarks.halbench import ObjectHalBench

    items, _ = answers()
    with pytest.raises(HarnessError, match="no item could be scored"):
        responses = {item.id: Response(item.id, "", refusal=WORDS) for item in items}
        score_suite(ObjectHalBench(), items, responses, max_unscored=1.0)


def test_a_refusal_of_an_endpoint_is_unscored_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`content: null` with a refusal, as endpoints send it: not an empty answer, which POPE would count as a no."""
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    small_pope(tmp_path)
    with seeing() as server:
        server.say = lambda image, prompt: None if prompt.endswith(", 7?") else "No."
        ask = ["eval", "--endpoint", server.url, "--model", "seer", "--data", "data", "--suite", "pope"]
        code, _, said = run_here(ask, tmp_path)
        assert code == 1 and "1 of 40 items could not be scored" in said and DECLINED in " ".join(said.split())
        code, out, said = run_here([*ask, "--max-unscored", "0.03", "--json"], tmp_path)
        assert code == 0, said
        asked = server.answered.total()
        assert run_here([*ask, "--max-unscored", "0.03"], tmp_path)[0] == 0
        assert server.answered.total() == asked, "a refusal is kept as any answer, and not asked for again"
    [record] = json.loads(out)
    assert (record["n"], record["unscored"], record["of"]) == (39, 1, 40)
    assert record["metrics"]["yes_ratio"]["value"] == 0 and record["metrics"]["accuracy"]["value"] == 19 / 39, (
        "a no would be right here"
    )
    rows = (tmp_path / "results" / "seer" / "evals" / "pope@data" / "items.jsonl").read_text().splitlines()
    [declined] = [row for row in map(json.loads, rows) if row["unscored"]]
    assert declined["item"] == "random/7" and DECLINED in declined["unscored"] and not declined["counts"]


def read_choice(text: str | None, reason: str | None, **fields: object) -> Reply | Refused:
    """A body with one choice as it is read; `fields` are further fields of the choice."""
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}} | fields
    return read_reply(json.dumps({"model": "seer", "choices": [choice]}).encode())


@pytest.mark.parametrize("reason", ["error", "abort", "tool_calls", "insufficient_system_resource", "OTHER"])
def test_a_reply_that_ended_without_an_answer_is_none(reason: str) -> None:
    for text in ("", None, "A dog and"):
        reply = read_choice(text, reason)
        assert isinstance(reply, Reply) and reply.text is None and reason.lower() in reply.problem


@pytest.mark.parametrize(
    "reason",
    [
        "content_filter",
        "content_filter: PROHIBITED_CONTENT",
        "SAFETY",
        "RECITATION",
        "SPII",
        "BLOCKLIST",
        "IMAGE_SAFETY",
    ],
)
def test_a_filter_by_any_name_is_a_filter(reason: str) -> None:
    for fields in ({}, {"message": None}):
        reply = read_choice("A dog", reason, **fields)
        assert isinstance(reply, Reply) and reply.filtered and reply.text is not None


@pytest.mark.parametrize(
    ("reason", "standard"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("eos_token", "stop"),
        ("MAX_TOKENS", "length"),
        (None, "unknown"),
        ("", "unknown"),
    ],
)
def test_an_answer_ends_in_the_words_of_any_server(reason: str | None, standard: str) -> None:
    reply = read_choice("A dog", reason)
    assert isinstance(reply, Reply) and (reply.text, reply.finish_reason, reply.filtered) == ("A dog", standard, False)


def test_an_error_in_a_choice_or_beside_it_is_no_answer() -> None:
    """As OpenRouter sends it, with status 200, when a model's provider fails."""
    inside = read_choice("", "error", error={"code": 502, "message": "provider failed"})
    assert inside == Refused(502, Reason.SERVER, "provider failed")
    body = {
        "choices": [{"finish_reason": "stop", "message": {"content": "A d"}}],
        "error": {"code": 429, "message": "slow"},
    }
    assert read_reply(json.dumps(body).encode()) == Refused(429, Reason.BUSY, "slow")
    nothing = {"message": "", "type": "", "code": None}
    assert isinstance(read_reply(json.dumps(body | {"error": nothing}).encode()), Reply), "an error without content"


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


def test_an_endpoint_is_sent_no_image_from_outside_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin's benchmark takes the paths of its file as they are; what lies outside is refused before a request is made."""
    from harness.core import registry
    from harness.evaluation.request import EvalRequest, prepare
    from harness.evaluation.suites import Suite, check_inside
    from harness.serving.openai import OpenAIBackend
    from harness.serving.transformers import TransformersBackend
    from tests.plugin.harness_ipo import ExactMatch

    root = tmp_path / "data"
    (root / "exact" / "images").mkdir(parents=True)
    tiny_photograph(root / "exact" / "images" / "a.png", 0)
    tiny_photograph(tmp_path / "private.png", 1)
    rows = [{"id": n, "image": "images/a.png", "question": "What?", "answer": "A dog."} for n in range(3)]

    def suite(image: str) -> Suite:
        lines = [json.dumps(row) for row in (*rows, rows[0] | {"id": "last", "image": image})]
        (root / "exact" / "questions.jsonl").write_text("\n".join(lines))
        items = ExactMatch().items(root / "exact")
        return Suite(ExactMatch(), items, len(items), Sampling())

    check_inside([suite("images/b.png"), suite("../shared/b.png")], root)
    for image in ("/etc/private.png", "images/../../../private.png", "../../private.png"):
        with pytest.raises(BadInputError, match="outside the benchmark data") as caught:
            check_inside([suite(image)], root)
        assert "item last" in str(caught.value.where) and "private.png" in str(caught.value.where)

    # An evaluation asks before it serves; weights that lie here may be shown any picture.
    monkeypatch.setattr(registry, "load", lambda kind, name: ExactMatch)
    request = EvalRequest([], ["exact"], str(root), OpenAIBackend)
    with pytest.raises(BadInputError, match="outside the benchmark data"):
        prepare(request)
    assert prepare(dataclasses.replace(request, backend=TransformersBackend))[0]
