"""The judge client against a local endpoint that misbehaves in every way that real ones do."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core.errors import BadInputError, HarnessError
from harness.core.files import read_jsonl
from harness.judging.base import BudgetError
from harness.judging.openai import OpenAIJudge
from harness.judging.panel import ask
from harness.judging.prices import Price, parse_price, price_of
from harness.judging.settings import OpenAIJudgeSettings
from harness.remote.endpoint import KEY_VARIABLE
from tests.harness.judging.fake_endpoint import SECRET, FakeServer, make, requests, serving


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as running:
        yield running


def test_a_notebook_judges_too(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells run inside an event loop."""
    judge = make(server, tmp_path, monkeypatch)

    async def cell() -> list[str | None]:
        return [reply.text for reply in judge.judge(requests("good:1", "good:2"))]

    assert asyncio.run(cell()) == ["Rating: 4 (good:1)", "Rating: 4 (good:2)"]


@pytest.mark.slow
def test_every_item_is_answered_once_through_all_failures(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ("429", "500", "malformed", "text", "empty", "half", "slow", "wrong", "good")
    prompts = [f"{kind}:{number}" for kind in kinds for number in range(3)]
    judge = make(server, tmp_path, monkeypatch, concurrency=5)
    replies = list(judge.judge(requests(*prompts)))
    assert Counter(reply.item_id for reply in replies) == Counter(prompts)
    assert {reply.item_id: reply.text for reply in replies} == {prompt: f"Rating: 4 ({prompt})" for prompt in prompts}
    assert {server.asked[prompt] for prompt in prompts if not prompt.startswith("good")} == {3}
    assert {server.asked[prompt] for prompt in prompts if prompt.startswith("good")} == {1}
    assert judge.provenance()["answered_by"] == ["judge-2024-08-06"]
    # The bound holds for what the client has open; a request it gave up on may still sleep in the server.
    assert server.most_running <= 5 + 3 * 2

    before = server.asked.total()
    again = make(server, tmp_path, monkeypatch)
    assert {reply.item_id: reply.text for reply in again.judge(requests(*prompts))} == {
        reply.item_id: reply.text for reply in replies
    }
    assert server.asked.total() == before, "a kept reply was asked for again"
    assert again.provenance()["answered_by"] == ["judge-2024-08-06"]
    assert again.provenance()["took"]["calls"] == 0 and again.provenance()["took"]["kept"] == len(prompts)


@pytest.mark.claims("judge.openai.concurrency")
def test_concurrency_is_bounded(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(
        make(server, tmp_path, monkeypatch, concurrency=2).judge(requests(*(f"good:{number}" for number in range(20))))
    )
    assert 1 <= server.most_running <= 2


@pytest.mark.claims("judge.openai.attempts")
def test_what_never_answers_is_an_error_and_is_not_kept(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = make(server, tmp_path, monkeypatch, attempts=2)
    bad, good = sorted(judge.judge(requests("never:1", "good:1")), key=lambda reply: reply.text is not None)
    assert bad.text is None and bad.error and "2 attempts" in bad.error
    assert good.text == "Rating: 4 (good:1)"
    assert server.asked["never:1"] == 2
    list(judge.judge(requests("never:1")))
    assert server.asked["never:1"] == 4


def test_another_model_or_prompt_is_another_verdict(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("one", "two", "one"):
        list(make(server, tmp_path, monkeypatch, model=model).judge(requests("good:1")))
    assert server.asked["good:1"] == 2


def test_a_refused_key_stops_and_is_shown_nowhere(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    judge = make(server, tmp_path, monkeypatch)
    list(judge.judge(requests("good:1")))
    with pytest.raises(HarnessError) as caught:
        list(judge.judge(requests("401:1")))
    out = capfd.readouterr()
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert kept and SECRET not in str(caught.value) + out.out + out.err + kept + json.dumps(judge.provenance()) + repr(
        judge.settings
    )


def test_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(HarnessError, match="API key"):
        list(OpenAIJudge(OpenAIJudgeSettings(), tmp_path).judge(requests("good:1")))


def test_a_refused_prompt_is_one_item_and_an_empty_account_is_all(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = make(server, tmp_path, monkeypatch)
    replies = {reply.item_id: reply for reply in judge.judge(requests("400:1", "good:1"))}
    assert (
        replies["good:1"].text and replies["400:1"].text is None and "against the rules" in str(replies["400:1"].error)
    )
    assert server.asked["400:1"] == 1, "a refused prompt was asked again"
    with pytest.raises(HarnessError, match="quota"):
        list(judge.judge(requests("quota:1")))
    assert server.asked["quota:1"] == 1


def test_what_was_paid_for_is_kept_when_the_endpoint_refuses(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HarnessError, match="refused"):
        list(make(server, tmp_path, monkeypatch, concurrency=3).judge(requests("good:1", "401:1", "good:2", "good:3")))
    asked = {prompt for prompt, times in server.asked.items() if times and prompt.startswith("good")}
    kept = {json.loads(path.read_text())["reply"] for path in tmp_path.rglob("*.json")}
    assert kept == {f"Rating: 4 ({prompt})" for prompt in asked}


@pytest.mark.claims("judge.openai.accept")
def test_another_models_reply_is_no_verdict(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HarnessError, match=r"came from 'another-model', not from 'judge'") as caught:
        list(make(server, tmp_path, monkeypatch, attempts=2).judge(requests("wrong:1")))
    assert "--judge-model" in str(caught.value.remedy) and "judge.accept=any" in str(caught.value.remedy)
    judge = make(server, tmp_path, monkeypatch, attempts=1, accept="any")
    server.asked.clear()
    (reply,) = judge.judge(requests("wrong:2"))
    assert reply.text and judge.provenance()["answered_by"] == ["another-model"]
    assert judge.label == "judge (answered by another-model)", "another judge stands under the name that was asked for"
    with pytest.raises(HarnessError, match="came from 'another-model'"):
        list(make(server, tmp_path, monkeypatch, attempts=1).judge(requests("wrong:2")))


def read(text: str) -> int | None:
    return int(text[8]) if text.startswith("Rating: ") else None


def test_a_reply_that_cannot_be_read_is_asked_for_again(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = make(server, tmp_path, monkeypatch, asks=3)
    votes = ask(judge, requests("vague:1", "mute:1", "good:1"), read)
    assert [votes[name][0].value for name in ("vague:1", "mute:1", "good:1")] == [4, None, 4]
    assert votes["vague:1"][0].first == "I would rather not say." and votes["vague:1"][0].text == "Rating: 4 (vague:1)"
    assert "cannot be parsed" in str(votes["mute:1"][0].reason)
    assert (server.asked["vague:1"], server.asked["mute:1"], server.asked["good:1"]) == (2, 3, 1)
    assert server.temperatures["vague:1"] == [0.0, 0.7], "asked again just as before"
    again = ask(make(server, tmp_path, monkeypatch, asks=3), requests("vague:1", "mute:1", "good:1"), read)
    assert again == votes and server.asked["mute:1"] == 3


def test_a_reply_that_was_cut_off_is_known_as_such(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from the cache; and in replies of earlier versions, which have no finish_reason, by their number of tokens (100)."""

    def cut(limit: int) -> dict[str, bool]:
        judge = make(server, tmp_path, monkeypatch, max_tokens=limit)
        return {reply.item_id: reply.cut_off for reply in judge.judge(requests("long:1", "good:1"))}

    assert cut(100) == cut(100) == cut(101) == {"long:1": True, "good:1": False} and server.asked["long:1"] == 2
    for path in tmp_path.rglob("*.json"):
        row = json.loads(path.read_text())
        assert row.pop("finish_reason") in ("length", "stop")
        path.write_text(json.dumps(row))
    assert cut(100) == {"long:1": True, "good:1": True} and cut(101) == {"long:1": False, "good:1": False}
    judge = make(server, tmp_path, monkeypatch, asks=1)
    [[whole], [any_part]] = (ask(judge, requests("long:2"), read, whole=whole)["long:2"] for whole in (True, False))
    assert whole.cut_off and whole.value is None and "it was cut off" in str(whole.reason) and any_part.value == 4


def test_votes(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = make(server, tmp_path, monkeypatch, votes=4)
    votes = ask(judge, requests("moody:1", "good:1"), read)
    assert [vote.value for vote in votes["moody:1"]] == [5, 4, 5, 4] and server.asked["moody:1"] == 4
    assert [vote.value for vote in votes["good:1"]] == [4] * 4
    ask(make(server, tmp_path, monkeypatch, votes=5), requests("moody:1"), read)
    assert server.asked["moody:1"] == 5, "votes that are there were asked for again"


def test_the_budget_stops_cleanly_and_the_rest_follows(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [f"good:{number}" for number in range(20)]
    # A call costs 1000 x 1 $ + 100 x 10 $ a million tokens = 0.002 $; its worst case (1 token, 200 tokens) is held back.
    options = {"price": (1.0, 10.0), "max_tokens": 200, "concurrency": 1}
    judge = make(server, tmp_path, monkeypatch, max_cost=0.0105, **options)
    estimate = judge.estimate(requests(*prompts))
    assert estimate.calls == 20 and estimate.kept == 0 and estimate.completion_tokens == 4000
    assert estimate.usd == pytest.approx((estimate.prompt_tokens * 1 + 4000 * 10) / 1e6)
    with pytest.raises(BudgetError, match="budget") as caught:
        list(judge.judge(requests(*prompts)))
    assert judge.ledger.usd is not None and 0 < judge.ledger.usd <= 0.0105 and "max-cost" in str(caught.value)
    done = server.asked.total()
    assert 0 < done < 20
    after = make(server, tmp_path, monkeypatch, max_cost=1.0, **options)
    assert after.estimate(requests(*prompts)).kept == done
    assert len(list(after.judge(requests(*prompts)))) == 20
    assert set(server.asked.values()) == {1} and after.provenance()["took"]["usd"] == pytest.approx(0.002 * (20 - done))


def test_a_budget_needs_a_price(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HarnessError, match="needs a price"):
        make(server, tmp_path, monkeypatch, max_cost=1.0)
    assert make(server, tmp_path, monkeypatch).estimate(requests("good:1")).usd is None


def test_prices() -> None:
    assert price_of("gpt-4-0314") == price_of("gpt-4") == Price(30, 60)
    assert price_of("gpt-4o-2024-08-06") == price_of("gpt-4o") != price_of("gpt-4o-mini-2024-07-18")
    assert price_of("gpt-4-1106-preview") == Price(10, 30) and price_of("my-own-model") is None
    assert parse_price("2.5,10") == Price(2.5, 10)
    for text in ("2.5", "a,b", "-1,2", "1,2,3"):
        with pytest.raises(BadInputError, match="judge-price"):
            parse_price(text)


JUDGE_ALL = """
import json, sys
from pathlib import Path
from harness.core.files import write_jsonl
from harness.judging.openai import OpenAIJudge, OpenAIJudgeSettings
from tests.harness.judging.fake_endpoint import requests
settings = OpenAIJudgeSettings(base_url=sys.argv[1], model="judge", timeout_s=0.4, concurrency=16)
kinds = ["429", "500", "malformed", "half", "wrong", "slow"]
prompts = [f"{kinds[n // 10 % 6] if n % 10 == 0 else 'good'}:{n}" for n in range(1000)]
replies = list(OpenAIJudge(settings, Path(sys.argv[2])).judge(requests(*prompts)))
write_jsonl(Path(sys.argv[2]) / "replies.jsonl", [{"item": r.item_id, "text": r.text} for r in replies])
"""


@pytest.mark.slow
@pytest.mark.parametrize("wanted_kills", [3, pytest.param(20, marks=pytest.mark.exhaustive)])
def test_a_thousand_items_through_kills(wanted_kills: int, server: FakeServer, tmp_path: Path) -> None:
    command = [sys.executable, "-c", JUDGE_ALL, server.url, str(tmp_path)]
    environment = {**os.environ, KEY_VARIABLE: SECRET}
    rng, kills = random.Random(0), 0
    while kills < wanted_kills:
        before = server.asked.total()
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        # It is killed at a random point of its work: after so many calls of this life.
        wanted = before + rng.randint(1, 900 // wanted_kills)
        while server.asked.total() < wanted and process.poll() is None:
            time.sleep(0.002)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL, timeout=120)
    rows = list(read_jsonl(tmp_path / "replies.jsonl"))
    assert Counter(row["item"] for row in rows) == Counter({row["item"]: 1 for row in rows}) and len(rows) == 1000
    assert all(row["text"] == f"Rating: 4 ({row['item']})" for row in rows)
    # Only what was under way at a kill can have been asked once more than it had to be.
    needed = {name: 1 if name.startswith("good") else 3 for name in server.asked}
    extra = sum(times - needed[name] for name, times in server.asked.items())
    assert extra <= kills * (16 + 8), f"{extra} calls too many"
