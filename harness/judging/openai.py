"""A judge model behind any OpenAI-compatible endpoint, with a persistent cache: nothing is paid for twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.config import StrictModel
from harness.errors import HarnessError
from harness.files import sha256_json, write_json
from harness.judging.base import Judge, JudgeReply, JudgeRequest
from harness.paths import cache_folder
from harness.progress import progress

KEY_VARIABLE = "OPENAI_API_KEY"
_LONGEST_PAUSE_S = 30.0


class OpenAIJudgeSettings(StrictModel):
    """Which model judges, and how it is asked. The key comes from the environment and is written nowhere."""

    model: str = "gpt-4o"
    base_url: str | None = Field(
        default=None, description="an OpenAI-compatible endpoint; None is the client's default"
    )
    temperature: float = 0.0
    max_tokens: int = 512
    concurrency: int = Field(default=8, ge=1)
    timeout_s: float = Field(default=60, gt=0)
    attempts: int = Field(default=6, ge=1)


class OpenAIJudge(Judge):
    """Asks through the `openai` package, several at a time; replies are kept under (model, endpoint, prompt, sampling)."""

    name = "openai"

    def __init__(self, settings: OpenAIJudgeSettings | None = None, cache: Path | None = None) -> None:
        self.settings = settings or OpenAIJudgeSettings()
        self._cache = (cache or cache_folder()) / "judge"
        self._answered_by: set[str] = set()
        if not os.environ.get(KEY_VARIABLE):
            raise HarnessError(
                "the judge needs an API key",
                where=f"judge openai, model {self.settings.model}",
                remedy=f"set {KEY_VARIABLE} in the environment, or leave the suite that needs a judge out",
            )

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        """Yield replies as they come; kept ones first."""
        asked: list[tuple[JudgeRequest, Path]] = []
        for request in requests:
            path = self._path(request)
            if path.exists():
                kept = json.loads(path.read_text(encoding="utf-8"))
                self._answered_by.add(kept["model"])
                yield JudgeReply(request.item.id, kept["reply"])
            else:
                asked.append((request, path))
        if asked:
            yield from asyncio.run(self._ask_all(asked))

    def _path(self, request: JudgeRequest) -> Path:
        settings = self.settings
        key = sha256_json(
            [settings.model, settings.base_url, settings.temperature, settings.max_tokens, request.prompt]
        )
        return self._cache / key[:2] / f"{key}.json"

    async def _ask_all(self, asked: Sequence[tuple[JudgeRequest, Path]]) -> list[JudgeReply]:
        from openai import AsyncOpenAI

        gate = asyncio.Semaphore(self.settings.concurrency)
        # Retries are ours: the client's own do not tell a full account from a busy server.
        async with AsyncOpenAI(
            base_url=self.settings.base_url, timeout=self.settings.timeout_s, max_retries=0
        ) as client:
            with progress(f"judging with {self.settings.model}", len(asked)) as advance:

                async def one(request: JudgeRequest, path: Path) -> JudgeReply:
                    async with gate:
                        reply = await self._ask(client, request, path)
                    advance()
                    return reply

                return list(await asyncio.gather(*(one(*pair) for pair in asked)))

    async def _ask(self, client: Any, request: JudgeRequest, path: Path) -> JudgeReply:
        """One reply; what can pass is tried again with growing, jittered pauses."""
        import openai

        problem = ""
        for attempt in range(self.settings.attempts):
            try:
                answer = await client.chat.completions.create(
                    model=self.settings.model,
                    temperature=self.settings.temperature,
                    max_tokens=self.settings.max_tokens,
                    messages=[{"role": "user", "content": request.prompt}],
                )
                if text := _content(answer):
                    model = str(getattr(answer, "model", None) or "unnamed")
                    self._answered_by.add(model)
                    write_json(
                        path,
                        {"model": model, "reply": text, "usage": answer.usage.model_dump() if answer.usage else None},
                    )
                    return JudgeReply(request.item.id, text)
                problem, pause = "empty or malformed reply", 0.0
            except (
                openai.AuthenticationError,
                openai.PermissionDeniedError,
                openai.NotFoundError,
                openai.BadRequestError,
            ) as error:
                raise HarnessError(
                    f"the judge refused: {type(error).__name__} {error.status_code}",
                    where=f"model {self.settings.model}",
                    remedy=f"check {KEY_VARIABLE}, the model's name and the endpoint",
                ) from None
            except (openai.APIError, ValueError) as error:
                problem, pause = type(error).__name__, _asked_to_wait(error)
            if attempt + 1 < self.settings.attempts:
                await asyncio.sleep(max(pause, min(_LONGEST_PAUSE_S, 0.5 * 2**attempt) * random.uniform(0.5, 1.5)))
        return JudgeReply(request.item.id, None, f"{problem}, after {self.settings.attempts} attempts")

    def provenance(self) -> dict[str, Any]:
        """Model asked for, models that answered, endpoint, sampling. No key."""
        return {
            "judge": self.name,
            "model": self.settings.model,
            "answered_by": sorted(self._answered_by),
            "base_url": self.settings.base_url,
            "temperature": self.settings.temperature,
        }


def _content(answer: Any) -> str | None:
    """The text of the first choice; None where the answer is none (some servers send 200 with another body)."""
    choices = getattr(answer, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    content = getattr(message, "content", None)
    return content if isinstance(content, str) and content.strip() else None


def _asked_to_wait(error: Exception) -> float:
    """Seconds that a busy server asks for in `Retry-After`, within reason; 0 where it asks for none."""
    response = getattr(error, "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    return min(float(asked), 2 * _LONGEST_PAUSE_S) if asked.replace(".", "", 1).isdigit() else 0.0
