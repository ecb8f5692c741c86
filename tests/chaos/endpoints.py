"""A judge and a model under evaluation at an endpoint with every kind of fault, under a budget: what is wrong with what came of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from PIL import Image

import harness.remote.endpoint
from harness.core.errors import HarnessError
from harness.core.types import ImageRef, Item, Response
from harness.judging.base import JudgeReply, JudgeRequest
from harness.judging.openai import OpenAIJudge
from harness.judging.settings import OpenAIJudgeSettings
from harness.remote.endpoint import KEY_VARIABLE
from harness.serving.base import Completion, Request, Sampling
from harness.serving.openai import OpenAIBackend, OpenAISettings
from tests.chaos.faults import COMPLETION_TOKENS, FAULTS, KEY, PROMPT_TOKENS, Fault, FaultyServer, answer_to, faulty

PRICE = (1.0, 10.0)
WORKERS = 3
CALL_USD = (PROMPT_TOKENS * PRICE[0] + COMPLETION_TOKENS * PRICE[1]) / 1e6


@dataclass
class Seen:
    """What one run left."""

    texts: dict[str, str] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None
    output: str = ""
    usd: float = 0.0


@contextmanager
def _quick() -> Iterator[io.StringIO]:
    """Pauses of thousandths of a second, the key in the environment, and what is printed."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, {KEY_VARIABLE: KEY}),
        mock.patch.multiple(harness.remote.endpoint, _FIRST_PAUSE_S=0.005, _LONGEST_PAUSE_S=0.02, _LONGEST_WAIT_S=0.05),
        contextlib.redirect_stderr(printed),
        contextlib.redirect_stdout(printed),
    ):
        yield printed


def judged(server: FaultyServer, cache: Path, prompts: list[str], **settings: object) -> Seen:
    """A judge asked for its verdicts."""
    chosen = {"base_url": server.url, "model": "judge", "timeout_s": 0.6, "concurrency": WORKERS, "price": PRICE}
    chosen |= {"attempts": 4} | settings
    requests = [JudgeRequest(Item(one, "", ImageRef(), one), Response(one, ""), one) for one in prompts]
    seen = Seen()
    with _quick() as printed:
        judge = OpenAIJudge(OpenAIJudgeSettings.model_validate(chosen), cache)
        replies: list[JudgeReply] = []
        try:
            for reply in judge.judge(requests):
                replies.append(reply)
        except Exception as error:  # noqa: BLE001 (an exception of any other kind is what is looked for)
            seen.error = error
        seen.texts = {one.item_id: one.text for one in replies if one.text is not None}
        without = {one.item_id: str(one.error) for one in replies if one.text is None}
        kept = [json.loads(path.read_text()) for path in cache.rglob("*.json")]
        words = {one["declined"] for one in kept if one.get("declined")}
        seen.declined = {name: said for name, said in without.items() if said in words}
        seen.refused = {name: said for name, said in without.items() if said not in words}
        seen.usd = judge.ledger.usd or 0.0
        seen.output = printed.getvalue() + json.dumps(judge.provenance()) + repr(judge.settings)
    return seen


def answered(server: FaultyServer, prompts: list[str], **settings: object) -> Seen:
    """A model under evaluation asked the same."""
    chosen = {"endpoints": [server.url], "timeout_s": 0.6, "concurrency": WORKERS, "attempts": 4} | settings
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(stream, "PNG")
    picture = ImageRef(data=stream.getvalue(), name="picture")
    requests = [Request(one, "base", one, picture, Sampling(max_new_tokens=60)) for one in prompts]
    seen, completions = Seen(), list[Completion]()
    with _quick() as printed:
        backend = OpenAIBackend("judge", settings=OpenAISettings.model_validate(chosen))
        try:
            with backend:
                completions.extend(backend.generate(requests))
        except Exception as error:  # noqa: BLE001 (likewise)
            seen.error = error
        seen.refused = {one.id: one.refused for one in completions if one.refused is not None}
        seen.declined = {one.id: one.refusal for one in completions if one.refusal is not None}
        seen.texts = {one.id: one.text for one in completions if one.refused is None and one.refusal is None}
        seen.output = printed.getvalue() + json.dumps(backend.provenance()) + repr(backend.settings)
    return seen


def complaints(fault: Fault, seen: Seen, server: FaultyServer, prompts: list[str]) -> list[str]:
    """What is wrong with what came of a fault: [] where nothing is."""
    wrong, error = [], seen.error
    if error is not None and not isinstance(error, HarnessError):
        wrong.append(f"{type(error).__name__}: {error}")
    texts = {"answered": seen.texts, "declined": seen.declined, "refused": seen.refused}.get(fault.outcome)
    if texts is not None:
        if error is not None:
            wrong.append(f"an error: {error}")
        if set(texts) != set(prompts):
            wrong.append(f"{len(texts)} of {len(prompts)} items are {fault.outcome}")
        if fault.said and not all(re.search(fault.said, words) for words in texts.values()):
            wrong.append(f"said: {next(iter(texts.values()), None)}")
    elif error is None:
        wrong.append("no error")
    elif not re.search(fault.said, str(error)) or not re.search(fault.remedy, str(getattr(error, "remedy", ""))):
        wrong.append(f"said: {error}")
    if fault.outcome == "answered" and seen.texts != {one: answer_to(one) for one in prompts}:
        wrong.append("the answers are not those that were given")
    if twice := [prompt for prompt, times in server.good.items() if times > 1]:
        wrong.append(f"good replies were paid for twice: {twice}")
    if KEY[:12] in seen.output + str(error) + str(getattr(error, "remedy", "")):
        wrong.append("the key is shown")
    return wrong


def trial(name: str, items: int = 6) -> dict[str, list[str]]:
    """Judge and backend through one kind of fault: who -> what is wrong."""
    fault, prompts = FAULTS[name], [f"question {number}" for number in range(items)]
    problems: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as temporary, faulty(Fault(times=-1)) as elsewhere:
        with faulty(fault, elsewhere.url) as server:
            cache = Path(temporary)
            seen = judged(server, cache, prompts)
            wrong = complaints(fault, seen, server, prompts)
            calls = server.asked.total()
            again = judged(server, cache, prompts)
            if fault.outcome in ("answered", "declined"):
                if server.asked.total() != calls:
                    wrong.append(f"{server.asked.total() - calls} kept replies were asked for again")
                if (again.texts, again.declined) != (seen.texts, seen.declined):
                    wrong.append("kept replies are others")
            wrong += _leaks(cache)
            problems["judge"] = wrong
        with faulty(fault, elsewhere.url) as server:
            if name == "no temperature":  # never left out by itself: it would be another sampling than the record says
                seen = answered(server, prompts)
                assert seen.error and "temperature" in str(seen.error), seen.error
                seen = answered(server, prompts, extra={"temperature": None})
            else:
                seen = answered(server, prompts)
            problems["backend"] = complaints(fault, seen, server, prompts)
        if elsewhere.asked:
            problems["redirection"] = ["a request was sent on to another host"]
    return problems


def budgeted(
    fault: Fault, calls: float, items: int = 12, max_tokens: int = COMPLETION_TOKENS + 10
) -> tuple[list[str], str]:
    """A judge through one kind of fault with a budget for so many good calls: what is wrong, and what was said.

    The limit of a reply's tokens is about what a reply has, so that the worst case is about a call's cost.
    """
    prompts = [f"question {number}" for number in range(items)]
    budget = calls * CALL_USD
    with tempfile.TemporaryDirectory() as temporary, faulty(fault) as server:
        cache = Path(temporary)
        seen = judged(server, cache, prompts, max_cost=budget, max_tokens=max_tokens)
        wrong, spent = [], server.charged * CALL_USD
        if spent > budget + WORKERS * CALL_USD:
            wrong.append(f"${spent:.5f} spent of ${budget:.5f}")
        if seen.error is not None and not (isinstance(seen.error, HarnessError) and "budget" in str(seen.error)):
            wrong.append(f"said: {seen.error}")
        if seen.error is None and len(seen.texts) < items:
            wrong.append("neither all replies nor an error")
        kept = {json.loads(path.read_text()).get("reply") for path in cache.rglob("*.json")} - {None}
        if len(kept) != len([prompt for prompt, times in server.good.items() if times]):
            wrong.append(f"{server.good.total()} good replies, {len(kept)} kept")
        return wrong, str(seen.error or "")


def _leaks(folder: Path) -> list[str]:
    return [
        f"the key is in {path.name}" for path in folder.rglob("*") if path.is_file() and KEY[:12] in path.read_text()
    ]


def run_all() -> Iterator[tuple[str, list[str]]]:
    """Every kind: (its name, what is wrong)."""
    for name, fault in FAULTS.items():
        problems = [f"{who}: {one}" for who, wrong in trial(name).items() for one in wrong]
        if fault.outcome == "answered":
            problems += [f"budget: {one}" for calls in (0, 2.5, 7) for one in budgeted(fault, calls)[0]]
        yield name, problems
