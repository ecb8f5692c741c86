"""Chat completions from OpenAI-compatible endpoints: one client for judges and for models under evaluation.

What can pass (a busy server, a cut connection, an empty body) is tried again with growing, jittered pauses; what cannot (a refused key, an
unknown model, an empty account) stops at once. Several endpoints that serve the same model are one pool. The key comes from the
environment and is written nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from harness.errors import HarnessError

KEY_VARIABLE = "OPENAI_API_KEY"
_LONGEST_PAUSE_S = 30.0
_FIRST_PAUSE_S = 0.5


class PromptRefusedError(HarnessError):
    """The endpoint refuses this one request: too long, or against the vendor's rules. Asking again would not help."""


class NoReplyError(HarnessError):
    """No reply that is one came, as often as it was tried."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint answered.

    Attributes:
        text: None where the body holds no choice at all (some servers send 200 with another body); a choice without words is "".
        model: the name that the endpoint gives itself.
        finish_reason: as the endpoint says.
        prompt_tokens: as the endpoint counts; 0 where it does not.
        completion_tokens: likewise.
        usage: the endpoint's whole account, where it gives one.
    """

    text: str | None
    model: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    usage: dict[str, Any] | None = None


def require_key(who: str) -> None:
    """Check that there is a key before anything is asked.

    Args:
        who: what needs it, for the message.

    Raises:
        HarnessError: the environment has none.
    """
    if not os.environ.get(KEY_VARIABLE):
        raise HarnessError(
            f"the {who.partition(' ')[0]} needs an API key",
            where=who,
            remedy=f"set {KEY_VARIABLE} in the environment (any text for a server of your own that wants none)",
        )


def is_asked_for(wanted: str, model: str) -> bool:
    """Whether a reply's model is the one that was asked for; vendors add a date or a path to its name."""
    return model.startswith(wanted) or wanted.endswith(model)


class Pace:
    """A pause that one request's rate limit imposes on all."""

    def __init__(self) -> None:
        self._until = 0.0

    @property
    def left(self) -> float:
        """Seconds of it that are left."""
        return max(0.0, self._until - time.monotonic())

    def hold(self, seconds: float) -> None:
        """Nothing is asked for so long."""
        self._until = max(self._until, time.monotonic() + seconds)

    async def wait(self) -> None:
        """Until the pause is over."""
        while left := self.left:
            await asyncio.sleep(left)


@dataclass
class _Member:
    """One endpoint of the pool: its client, the pause that it asked for, and a pause in which others are preferred."""

    url: str | None
    client: Any
    pace: Pace = field(default_factory=Pace)
    trouble: Pace = field(default_factory=Pace)
    failures: int = 0
    """In a row, over all requests."""

    @property
    def well(self) -> bool:
        """Whether it may be asked now."""
        return not self.trouble.left and not self.pace.left

    def failed(self, pause: float) -> None:
        """A call failed: others are preferred for a while, the longer the more of them failed in a row."""
        self.trouble.hold(max(pause, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self.failures, 8))))
        self.failures += 1


class Endpoints:
    """One or several endpoints of the same model. Use as an asynchronous context.

    Args:
        urls: base URLs; None is the client's default.
        model: the name to ask for.
        who: what it is to the user ("judge", "endpoint"), for errors.
        timeout_s: of one call.
        attempts: calls for one reply before it is given up.
    """

    def __init__(
        self, urls: Sequence[str | None], model: str, *, who: str = "endpoint", timeout_s: float = 60, attempts: int = 6
    ) -> None:
        self.urls, self.model, self.who = list(urls) or [None], model, who
        self._timeout_s, self._attempts = timeout_s, attempts
        self._members: list[_Member] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Endpoints:
        from openai import AsyncOpenAI

        for url in self.urls:
            # Retries are ours: the client's own do not tell an empty account from a busy server.
            client = AsyncOpenAI(base_url=url, timeout=self._timeout_s, max_retries=0)
            self._members.append(_Member(url, await self._stack.enter_async_context(client)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self._members.clear()

    async def ask(
        self,
        body: Mapping[str, Any],
        check: Callable[[Reply], str | None],
        *,
        affinity: str = "",
        only: int | None = None,
        attempts: int | None = None,
    ) -> Reply:
        """One reply; what can pass is tried again.

        Args:
            body: of the request, without the model.
            check: sees every reply, also those that are no good, and says what is wrong with it, None if nothing.
            affinity: requests with the same text go to the same endpoint while it is well, for its prefix cache.
            only: ask this endpoint of the pool and no other.
            attempts: other than the pool's.

        Raises:
            PromptRefusedError: this request is refused.
            NoReplyError: no good reply came.
            HarnessError: the endpoint refuses the key or the model, or the account is empty.
        """
        import openai

        problem, most = "", attempts or self._attempts
        for attempt in range(most):
            member = self._members[only] if only is not None else self._choose(affinity)
            await member.pace.wait()
            pause = 0.0
            try:
                answer = await member.client.chat.completions.create(model=self.model, **body)
                member.failures = 0
                reply = _read(answer)
                if (found := check(reply)) is None:
                    return reply
                problem = found
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                raise PromptRefusedError(f"{error.status_code} {error.code or ''} {_words(error)}".strip()) from None
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise self._refused(f"{type(error).__name__} {error.status_code}", member) from None
            except openai.RateLimitError as error:
                if error.code == "insufficient_quota":
                    raise self._refused("the account's quota is used up", member) from None
                problem, pause = type(error).__name__, _asked_to_wait(error)
                member.pace.hold(pause)  # a limit is the account's: it holds for the others too
            except (openai.APIError, ValueError) as error:
                problem, pause = type(error).__name__, _asked_to_wait(error)
                member.failed(pause)
                if only is None and any(one.well for one in self._members):
                    continue  # another endpoint of the pool is asked at once
            if attempt + 1 < most:
                grown = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1.5)
                await asyncio.sleep(max(pause, grown))
        raise NoReplyError(f"{problem}, after {most} attempts")

    async def models(self, only: int = 0) -> list[str]:
        """The models that an endpoint says it has; [] where it does not say."""
        import openai

        with contextlib.suppress(openai.OpenAIError, ValueError):
            listed = await self._members[only].client.models.list()
            return sorted(str(one.id) for one in getattr(listed, "data", None) or [])
        return []

    def _choose(self, affinity: str) -> _Member:
        """The endpoint that this affinity prefers, or the next one that is well; the preferred one where none is."""
        count = len(self._members)
        first = int.from_bytes(hashlib.sha256(affinity.encode("utf-8", "replace")).digest()[:4], "big") % count
        order = [self._members[(first + step) % count] for step in range(count)]
        return next((one for one in order if one.well), order[0])

    def _refused(self, problem: str, member: _Member) -> HarnessError:
        at = f" at {member.url}" if member.url else ""
        return HarnessError(
            f"the {self.who} refused: {problem}",
            where=f"model {self.model}{at}",
            remedy=f"check {KEY_VARIABLE}, the model's name and the endpoint",
        )


def _read(answer: Any) -> Reply:
    """The first choice of an answer, whatever the server sent."""
    choices = getattr(answer, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    text = None
    if message is not None:
        content = getattr(message, "content", None)
        text = content if isinstance(content, str) else ""
    usage = getattr(answer, "usage", None)
    return Reply(
        text,
        str(getattr(answer, "model", None) or "unnamed"),
        str(getattr(choice, "finish_reason", None) or "unknown"),
        getattr(usage, "prompt_tokens", 0) or 0,
        getattr(usage, "completion_tokens", 0) or 0,
        usage.model_dump() if usage else None,
    )


def _words(error: Any) -> str:
    """The server's own words about a refused request, without the request (which may be a whole image)."""
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or "")[:300]


def _asked_to_wait(error: Exception) -> float:
    """Seconds that a busy server asks for in `Retry-After` (a number or a date), within reason; 0 where it asks for none."""
    response = getattr(error, "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    seconds = 0.0
    if asked.replace(".", "", 1).isdigit():
        seconds = float(asked)
    elif asked:
        with contextlib.suppress(ValueError):
            seconds = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
    return min(max(seconds, 0.0), 2 * _LONGEST_PAUSE_S)
