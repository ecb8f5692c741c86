"""A judge is asked with the parameters that its model takes; what is sent is part of what a kept reply is a reply to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.judging.parameters import REASONING_TOKENS
from tests.chaos.endpoints import judged
from tests.chaos.faults import FAULTS, Fault, answer_to, error, faulty

PROMPTS = ["question 0", "question 1"]
TOKENS, TEMPERATURE = FAULTS["max_completion_tokens"], FAULTS["no temperature"]


def test_a_reasoning_model_judges_and_it_is_said(tmp_path: Path) -> None:
    with faulty(TOKENS) as server:
        seen = judged(server, tmp_path, PROMPTS, concurrency=1)
        assert seen.texts == {one: answer_to(one) for one in PROMPTS} and seen.error is None
        assert "max_completion_tokens is sent instead of max_tokens" in seen.output
        assert server.bodies[-1]["max_completion_tokens"] == REASONING_TOKENS
        # One refusal in all: the second question was asked rightly at once.
        assert server.asked == {"question 0": 2, "question 1": 1}
        # A later command knows: what is kept is found again, what is new is asked rightly at once.
        seen = judged(server, tmp_path, [*PROMPTS, "question 2"])
        assert len(seen.texts) == 3 and server.asked.total() == 4
        assert f'"parameters": [{{"temperature": 0.0, "max_completion_tokens": {REASONING_TOKENS}}}]' in seen.output


@pytest.mark.claims("judge.openai.token_parameter")
@pytest.mark.parametrize(
    ("fault", "settings", "remedy"),
    [
        (TOKENS, {"token_parameter": "max_tokens"}, "judge.token_parameter=max_completion_tokens"),
        (TEMPERATURE, {"temperature": 0.5}, "judge.temperature=null"),
    ],
)
def test_what_was_named_is_never_changed_in_silence(
    tmp_path: Path, fault: Fault, settings: dict[str, Any], remedy: str
) -> None:
    with faulty(fault) as server:
        seen = judged(server, tmp_path, PROMPTS * 20, concurrency=1, **settings)
    assert seen.error is not None and remedy in str(seen.error) and not seen.texts
    assert server.asked.total() == 1, "every item was asked, though all of them are refused"


@pytest.mark.claims("judge.openai.max_tokens")
def test_a_limit_that_was_named_is_kept(tmp_path: Path) -> None:
    with faulty(TOKENS) as server:
        judged(server, tmp_path, PROMPTS, max_tokens=99)
        assert server.bodies[-1]["max_completion_tokens"] == 99


@pytest.mark.claims("judge.openai.reasoning_effort")
def test_temperature_null_and_reasoning_effort_are_sent_as_they_are(tmp_path: Path) -> None:
    with faulty(Fault(times=-1)) as server:
        judged(
            server,
            tmp_path,
            PROMPTS[:1],
            temperature=None,
            reasoning_effort="low",
            token_parameter="max_completion_tokens",
        )
        assert server.bodies == [{"model": "judge", "max_completion_tokens": 512, "reasoning_effort": "low"}]


def test_an_effort_that_is_refused_stops_with_the_setting(tmp_path: Path) -> None:
    refused = error("Unrecognized request argument supplied: reasoning_effort")
    with faulty(Fault(refused, "stops", status=400, times=0)) as server:
        seen = judged(server, tmp_path, PROMPTS, reasoning_effort="low")
    assert "judge.reasoning_effort=null" in str(seen.error)


@pytest.mark.parametrize(
    "other",
    [
        {"temperature": 0.3},
        {"temperature": None},
        {"max_tokens": 100},
        {"token_parameter": "max_completion_tokens"},
        {"reasoning_effort": "low"},
        {"model": "judge-2024-01-01"},
    ],
)
def test_a_kept_reply_is_one_to_the_same_request(tmp_path: Path, other: dict[str, Any]) -> None:
    with faulty(Fault(times=-1)) as server:
        for settings, calls in (({}, 1), (other, 2), ({}, 2), (other, 2)):
            judged(server, tmp_path, PROMPTS[:1], **settings)
            assert server.asked.total() == calls, settings


def test_another_address_is_another_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty(Fault(times=-1)) as first, faulty(Fault(times=-1)) as other:
        for server in (first, other):
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            judged(server, tmp_path, PROMPTS[:1], base_url=None)
        assert (first.asked.total(), other.asked.total()) == (1, 1)
        # Credentials are not the address: who has another password finds the same replies.
        judged(other, tmp_path, PROMPTS[:1], base_url=other.url.replace("http://", "http://me:open-sesame-1@"))
        assert other.asked.total() == 1


def test_a_kept_reply_of_another_model_is_none(tmp_path: Path) -> None:
    with faulty(FAULTS["another model"]) as server:
        seen = judged(server, tmp_path, PROMPTS[:1], accept="any")
        assert seen.texts and "the judge is 'judge-mini', not 'judge'" in seen.output
        seen = judged(server, tmp_path, PROMPTS[:1])
    assert not seen.texts and "came from 'judge-mini', not from 'judge'" in str(seen.error)
