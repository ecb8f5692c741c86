"""A judge model behind any OpenAI-compatible endpoint, with a persistent cache: nothing is paid for twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness.endpoint import Endpoints, NoReplyError, PromptRefusedError, Reply, is_asked_for, require_key
from harness.errors import HarnessError
from harness.files import sha256_json, write_json
from harness.judging.base import BudgetError, Estimate, Judge, JudgeReply, JudgeRequest, JudgeSettings
from harness.judging.ledger import Ledger
from harness.judging.prices import Price, price_of, tokens_of
from harness.paths import cache_folder
from harness.progress import progress


class OpenAIJudgeSettings(JudgeSettings):
    """Which model judges, and how it is asked. The key comes from the environment and is written nowhere."""

    model: str = "gpt-4o"
    base_url: str | None = Field(
        default=None, description="an OpenAI-compatible endpoint; None is the client's default"
    )
    temperature: float = Field(default=0.0, ge=0)
    retry_temperature: float = Field(
        default=0.7, ge=0, description="when a reply that cannot be read is asked for again"
    )
    max_tokens: int = Field(default=512, ge=1)
    concurrency: int = Field(default=8, ge=1)
    timeout_s: float = Field(default=60, gt=0)
    attempts: int = Field(default=6, ge=1, description="calls for one reply before it is given up")
    asks: int = Field(default=3, ge=1, description="askings for one vote whose reply cannot be read")
    votes: int = Field(default=1, ge=1)
    accept: Literal["same", "any"] = Field(
        default="same", description="whether a reply may come from a model with another name than was asked for"
    )
    max_cost: float | None = Field(default=None, ge=0, description="US dollars of this command; then it stops")
    price: tuple[float, float] | None = Field(
        default=None, description="US dollars for a million prompt and completion tokens; None is the table's"
    )


class OpenAIJudge(Judge):
    """Asks through the `openai` package, several at a time; replies are kept under (model, endpoint, sampling, prompt, sample)."""

    name = "openai"
    Settings = OpenAIJudgeSettings
    settings: OpenAIJudgeSettings
    samples = True

    def __init__(self, settings: JudgeSettings | None = None, cache: Path | None = None) -> None:
        super().__init__(settings)
        self.votes, self.asks = self.settings.votes, self.settings.asks
        self._cache = (cache or cache_folder()) / "judge"
        self._answered_by: set[str] = set()
        price = Price(*self.settings.price) if self.settings.price else price_of(self.settings.model)
        self.ledger = Ledger(price, self.settings.max_cost)
        if self.settings.max_cost is not None and price is None:
            raise HarnessError(
                f"a budget needs a price, and none is listed for the model '{self.settings.model}'",
                remedy="name it: --judge-price IN,OUT (US dollars for a million tokens; 0,0 for a server of your own)",
            )

    @property
    def label(self) -> str:
        """The model."""
        return self.settings.model

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        """Yield replies; kept ones first."""
        asked: list[JudgeRequest] = []
        for request in requests:
            if (kept := self._kept(request)) is not None:
                self._answered_by.add(kept["model"])
                self.ledger.kept += 1
                yield JudgeReply(request.item.id, kept["reply"])
            else:
                asked.append(request)
        if asked:
            yield from self._ask_all(asked)

    def _path(self, request: JudgeRequest) -> Path:
        settings = self.settings
        identity = [settings.model, settings.base_url, self._temperature(request), settings.max_tokens, request.prompt]
        key = sha256_json([*identity, request.sample])
        return self._cache / key[:2] / f"{key}.json"

    def _temperature(self, request: JudgeRequest) -> float:
        again = request.sample % self.asks > 0
        return max(self.settings.temperature, self.settings.retry_temperature) if again else self.settings.temperature

    def _kept(self, request: JudgeRequest) -> dict[str, Any] | None:
        """A kept reply; an empty or broken file is none."""
        try:
            kept = json.loads(self._path(request).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return kept if isinstance(kept, dict) and kept.get("reply") and "model" in kept else None

    def _ask_all(self, asked: Sequence[JudgeRequest]) -> list[JudgeReply]:
        """All replies; what is under way when one fails for good is waited for, since it is paid for.

        Raises:
            BudgetError: the budget was reached.
            HarnessError: the endpoint refuses the key or the model.
        """
        require_key(f"judge openai, model {self.settings.model}")
        replies, stopped = asyncio.run(self._run(asked))
        if stopped:
            raise stopped
        return replies

    async def _run(self, asked: Sequence[JudgeRequest]) -> tuple[list[JudgeReply], HarnessError | None]:
        settings = self.settings
        gate = asyncio.Semaphore(settings.concurrency)
        stopped: list[HarnessError] = []
        endpoint = Endpoints(
            [settings.base_url],
            settings.model,
            who="judge",
            timeout_s=settings.timeout_s,
            attempts=settings.attempts,
        )
        async with endpoint:
            with progress(f"judging with {settings.model}", len(asked)) as advance:

                async def one(request: JudgeRequest) -> JudgeReply | None:
                    async with gate:
                        if stopped:
                            return None
                        try:
                            with self.ledger.reserve(tokens_of(request.prompt), settings.max_tokens):
                                reply = await self._ask(endpoint, request)
                        except HarnessError as error:
                            stopped.append(error)
                            return None
                    advance(note=self.ledger.note)
                    return reply

                replies = [reply for reply in await asyncio.gather(*map(one, asked)) if reply]
        if stopped and isinstance(stopped[0], BudgetError):
            problem = f"{stopped[0].problem}; {len(replies)} of {len(asked)} replies came and are kept"
            return replies, BudgetError(problem, remedy="the same command with a larger --max-cost goes on from there")
        return replies, stopped[0] if stopped else None

    async def _ask(self, endpoint: Endpoints, request: JudgeRequest) -> JudgeReply:
        """One reply, kept; or why there is none."""
        body = {
            "temperature": self._temperature(request),
            "max_tokens": self.settings.max_tokens,
            "messages": [{"role": "user", "content": request.prompt.encode("utf-8", "replace").decode()}],
        }
        try:
            reply = await endpoint.ask(body, self._wrong)
        except PromptRefusedError as error:
            return JudgeReply(request.item.id, None, f"the judge refused the prompt: {error.problem}")
        except NoReplyError as error:
            return JudgeReply(request.item.id, None, error.problem)
        self._answered_by.add(reply.model)
        write_json(self._path(request), {"model": reply.model, "reply": reply.text, "usage": reply.usage})
        return JudgeReply(request.item.id, reply.text)

    def _wrong(self, reply: Reply) -> str | None:
        """What is wrong with a reply; it is booked, whatever it is good for."""
        self.ledger.paid(reply.prompt_tokens, reply.completion_tokens)
        if not (reply.text or "").strip():
            return "empty or malformed reply"
        if self.settings.accept == "same" and not is_asked_for(self.settings.model, reply.model):
            return f"the reply came from '{reply.model}', not from '{self.settings.model}'"
        return None

    def estimate(self, requests: Sequence[JudgeRequest]) -> Estimate:
        """Calls, tokens and cost of all votes; what is kept costs nothing."""
        numbered = [
            JudgeRequest(one.item, one.response, one.prompt, vote * self.asks)
            for one in requests
            for vote in range(self.votes)
        ]
        new = [one for one in numbered if self._kept(one) is None]
        prompt, completion = sum(tokens_of(one.prompt) for one in new), len(new) * self.settings.max_tokens
        price = self.ledger.price
        usd = price.of(prompt, completion) if price else None
        return Estimate(len(new), len(numbered) - len(new), prompt, completion, usd)

    def provenance(self) -> dict[str, Any]:
        """Model asked for, models that answered, endpoint, sampling, votes, and what it took. No key."""
        settings = self.settings
        return {
            "judge": self.name,
            "model": settings.model,
            "answered_by": sorted(self._answered_by),
            "base_url": settings.base_url,
            "temperature": settings.temperature,
            "retry_temperature": settings.retry_temperature,
            "max_tokens": settings.max_tokens,
            "votes": settings.votes,
            "asks": settings.asks,
            "took": self.ledger.summary(),
        }
