"""A judge model behind any OpenAI-compatible endpoint, with a persistent cache, so that nothing is paid for twice."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError
from harness.core.files import write_json
from harness.core.paths import cache_folder
from harness.core.progress import progress
from harness.core.redaction import without_credentials
from harness.judging.base import BudgetError, Estimate, Judge, JudgeReply, JudgeRequest, JudgeSettings
from harness.judging.ledger import Ledger
from harness.judging.parameters import Parameters
from harness.judging.prices import Price, price_of, tokens_of
from harness.judging.settings import OpenAIJudgeSettings
from harness.remote.endpoint import Endpoints, Wrong, effective_url, require_key
from harness.remote.event_loop import EventLoop
from harness.remote.model_names import UNNAMED, difference
from harness.remote.refusals import NoReplyError, Options, PromptRefusedError
from harness.remote.reply import Reason, Reply

logger = logging.getLogger(__name__)

_IN_A_ROW = 8
"""Number of consecutive requests without a reply after which judging stops: the endpoint is down, or refuses everything."""


class OpenAIJudge(Judge):
    """Sends requests through the `openai` package, several at a time; replies are stored under (model, endpoint, sampling, prompt,
    sample)."""

    name = "openai"
    Settings = OpenAIJudgeSettings
    settings: OpenAIJudgeSettings
    samples = True

    def __init__(self, settings: JudgeSettings | None = None, cache: Path | None = None) -> None:
        super().__init__(settings)
        self.votes, self.asks = self.settings.votes, self.settings.asks
        self._cache = (cache or cache_folder()) / "judge"
        url = effective_url(self.settings.base_url)
        self._url = without_credentials(url) if url else None
        self._parameters = Parameters(self.settings, self._url, self._cache)
        self._answered_by: set[str] = set()
        self._said: set[str] = set()
        self._sent: list[dict[str, Any]] = []
        price = Price(*self.settings.price) if self.settings.price else price_of(self.settings.model)
        self.ledger = Ledger(price, self.settings.max_cost)
        if self.settings.max_cost is not None and price is None:
            raise HarnessError(
                f"a budget needs a price, and none is listed for the model '{self.settings.model}'",
                remedy="give it: --judge-price IN,OUT (US dollars per million tokens; 0,0 for your own server)",
            )

    @property
    def most_tokens(self) -> int:
        """Tokens that a reply may have, reasoning included."""
        return self._parameters.most_tokens

    @property
    def label(self) -> str:
        """The model; if another model answered (`accept: any`), followed by its name."""
        others = sorted(name for name in self._answered_by if difference(self.settings.model, name) is None)
        return self.settings.model + (f" (answered by {', '.join(others)})" if others else "")

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        """Yield replies; stored ones first."""
        asked: list[JudgeRequest] = []
        for request in requests:
            if (kept := self._kept(request)) is not None:
                self.ledger.kept += 1
                self._note(kept["model"], self._parameters.sent(self._is_again(request)))
                yield _given(request, kept)
            else:
                asked.append(request)
        if asked:
            yield from self._ask_all(asked)

    def _path(self, request: JudgeRequest, sent: dict[str, Any] | None = None) -> Path:
        sent = self._parameters.sent(self._is_again(request)) if sent is None else sent
        # Without a system message the key is that of the prompt alone, as before there were any.
        asked = f"{request.system}\0{request.prompt}" if request.system else request.prompt
        key = self._parameters.key(sent, asked, request.sample)
        return self._cache / key[:2] / f"{key}.json"

    def _is_again(self, request: JudgeRequest) -> bool:
        return request.sample % self.asks > 0

    def _kept(self, request: JudgeRequest) -> dict[str, Any] | None:
        """The stored reply to exactly this request, from an accepted model; None if there is none, or its file is empty or broken."""
        try:
            kept = json.loads(self._path(request).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(kept, dict) or not isinstance(kept.get("model"), str):
            return None
        words = [kept.get("reply"), kept.get("declined")]
        if not any(isinstance(one, str) and one for one in words) or not self._accepts(kept["model"]):
            return None
        return kept

    def _accepts(self, model: str) -> bool:
        return self.settings.accept == "any" or difference(self.settings.model, model) is not None

    def _note(self, model: str, sent: dict[str, Any]) -> None:
        """Record the model that answered; log once if its name differs from the requested one."""
        self._answered_by.add(model)
        if sent not in self._sent:
            self._sent.append(sent)
        wanted = self.settings.model
        if model == UNNAMED:
            said: str | None = f"the endpoint does not say which model answers; '{wanted}' was asked for"
        elif (said := difference(wanted, model)) is None:
            said = f"the judge is '{model}', not '{wanted}' (judge.accept=any)"
        if said and said not in self._said:
            self._said.add(said)
            logger.warning(said)

    def _ask_all(self, asked: Sequence[JudgeRequest]) -> list[JudgeReply]:
        """Yield all replies; when one fails finally, wait for those in flight, because they are paid for.

        Raises:
            BudgetError: the budget was reached.
            HarnessError: the endpoint refuses the key or the model, or gives no replies.
        """
        require_key(f"judge openai, model {self.settings.model}")
        with EventLoop() as loop:
            replies, stopped = loop.run(self._run(asked))
        if isinstance(stopped, BudgetError):
            problem = f"{stopped.problem}; {len(replies)} of {len(asked)} replies were received and are stored"
            raise BudgetError(problem, remedy="run the same command with a larger --max-cost to resume")
        if stopped:
            raise stopped
        return replies

    async def _run(self, asked: Sequence[JudgeRequest]) -> tuple[list[JudgeReply], Exception | None]:
        settings = self.settings
        gate = asyncio.Semaphore(settings.concurrency)
        stopped: list[Exception] = []
        in_a_row = 0
        endpoint = Endpoints(
            [settings.base_url],
            settings.model,
            options=Options("judge", "--judge-url", "--judge-model", "judge"),
            timeout_s=settings.timeout_s,
            attempts=settings.attempts,
        )
        async with endpoint:
            with progress(f"judging with {settings.model}", len(asked)) as advance:

                async def reply_to(request: JudgeRequest) -> JudgeReply | None:
                    nonlocal in_a_row
                    async with gate:
                        if stopped:
                            return None
                        try:
                            reply = await self._ask(endpoint, request, stopped)
                        except (NoReplyError, PromptRefusedError) as error:
                            reply = JudgeReply(request.item.id, None, error.problem)
                            in_a_row += _may_be_of_all(error)
                            if in_a_row >= _IN_A_ROW:
                                stopped.append(self._gone(in_a_row, error))
                        except Exception as error:  # noqa: BLE001 (whatever it is, what is under way is waited for)
                            stopped.append(error)
                            return None
                        else:
                            in_a_row = 0
                    advance(note=self.ledger.note)
                    return reply

                replies = [reply for reply in await asyncio.gather(*map(reply_to, asked)) if reply]
        return [reply for reply in replies if reply.text is not None] if stopped else replies, next(iter(stopped), None)

    def _gone(self, count: int, error: HarnessError) -> HarnessError:
        return HarnessError(
            f"{count} requests in a row got no reply from the judge; the last: {error.problem}",
            where=f"model {self.settings.model}" + (f" at {self._url}" if self._url else ""),
            remedy=error.remedy or "check the endpoint and run the same command again; replies so far are stored",
        )

    async def _ask(self, endpoint: Endpoints, request: JudgeRequest, stopped: Sequence[Exception]) -> JudgeReply:
        """One reply, kept."""
        parameters, again = self._parameters, self._is_again(request)
        messages = _messages(request)
        sent: dict[str, Any] = {}

        def body() -> dict[str, Any]:
            nonlocal sent  # another request's refusal may change what is sent while this request is in flight
            sent = parameters.sent(again)
            return sent | {"messages": messages}

        def expected() -> tuple[int, int]:
            return _tokens(request), parameters.most_tokens

        @contextlib.asynccontextmanager
        async def permit() -> AsyncIterator[None]:
            async with self.ledger.call(*expected()):
                if stopped:
                    raise stopped[0]
                yield

        def check(reply: Reply) -> Wrong | None:
            self.ledger.paid(reply.prompt_tokens, reply.completion_tokens, expected())
            return self._wrong(reply)

        reply = await endpoint.ask(
            body,
            check,
            permit=permit,
            failed=lambda: self.ledger.perhaps_paid(expected()),
            adapt=parameters.adapt,
        )
        self._note(reply.model, sent)
        declined = _declined(reply, parameters.most_tokens)
        kept: dict[str, Any] = {"model": reply.model, "reply": None if declined else reply.text, "usage": reply.usage}
        kept |= {"finish_reason": reply.finish_reason, "parameters": sent}
        kept |= {"declined": declined} if declined else {}
        write_json(self._path(request, sent), kept)
        return _given(request, kept)

    def _wrong(self, reply: Reply) -> Wrong | None:
        """The problem of an unusable reply, or None."""
        if reply.text is None:
            return Wrong(f"the judge sent {reply.problem}")
        if not self._accepts(reply.model):
            return Wrong(f"the reply came from '{reply.model}', not from '{self.settings.model}'", model=True)
        if reply.says_nothing and reply.refusal is None and not (reply.filtered or reply.finish_reason == "length"):
            return Wrong("the judge sent an empty reply")
        return None

    def estimate(self, requests: Sequence[JudgeRequest]) -> Estimate:
        """Calls, tokens and cost of all votes; stored replies cost nothing."""
        numbered = [
            dataclasses.replace(request, sample=vote * self.asks) for request in requests for vote in range(self.votes)
        ]
        new = [request for request in numbered if self._kept(request) is None]
        prompt, completion = sum(map(_tokens, new)), len(new) * self._parameters.most_tokens
        price = self.ledger.price
        usd = price.of(prompt, completion) if price else None
        return Estimate(len(new), len(numbered) - len(new), prompt, completion, usd)

    def provenance(self) -> dict[str, Any]:
        """Requested model, models that answered, endpoint, parameters, votes, and cost. No key, no credentials."""
        settings = self.settings
        return {
            "judge": self.name,
            "model": settings.model,
            "answered_by": sorted(self._answered_by),
            "base_url": self._url,
            "temperature": self._parameters.sent().get("temperature"),
            "retry_temperature": settings.retry_temperature,
            "max_tokens": self._parameters.most_tokens,
            "parameters": self._sent,
            "votes": settings.votes,
            "asks": settings.asks,
            "took": self.ledger.summary(),
        }


def _declined(reply: Reply, most_tokens: int) -> str | None:
    """Why a reply is not a verdict although asking again would not help; None if it is one."""
    if reply.refusal:
        return f"the judge declined: {reply.refusal}"
    if reply.filtered:
        return "the vendor's content filter cut the judge's reply"
    if reply.says_nothing:
        more = f"--set judge.max_tokens={4 * most_tokens}"
        return f"the judge's reply was cut off after {most_tokens} tokens, before its first word (reasoning counts): {more}"
    return None


def _messages(request: JudgeRequest) -> list[dict[str, str]]:
    """The system message, if there is one, and the prompt."""
    texts = [("system", request.system), ("user", request.prompt)]
    return [
        {"role": role, "content": text.encode("utf-8", "replace").decode()}
        for role, text in texts
        if text or role == "user"
    ]


def _tokens(request: JudgeRequest) -> int:
    """Tokens of the messages, at most."""
    return tokens_of(request.prompt) + (tokens_of(request.system) if request.system else 0)


def _given(request: JudgeRequest, kept: Mapping[str, Any]) -> JudgeReply:
    """The reply to a request from its stored form."""
    if kept.get("declined"):
        return JudgeReply(request.item.id, None, kept["declined"], kept.get("finish_reason") == "length")
    return JudgeReply(request.item.id, kept["reply"], cut_off=_cut_off(kept))


def _cut_off(kept: Mapping[str, Any]) -> bool:
    """Whether a stored reply ended at the limit of tokens. One of an earlier version has no `finish_reason`: it did if it has as many
    tokens as the limit that was sent."""
    if "finish_reason" in kept:
        return bool(kept["finish_reason"] == "length")
    usage, sent = kept.get("usage"), kept.get("parameters")
    if not isinstance(usage, dict) or not isinstance(sent, dict):
        return False
    used, limit = usage.get("completion_tokens"), sent.get("max_completion_tokens", sent.get("max_tokens"))
    return isinstance(used, int) and isinstance(limit, int) and used >= limit


def _may_be_of_all(error: HarnessError) -> bool:
    """Whether the next request would probably fail in the same way: no answer at all, or a refusal for an unknown reason."""
    return not isinstance(error, PromptRefusedError) or error.refused.reason is Reason.UNKNOWN
