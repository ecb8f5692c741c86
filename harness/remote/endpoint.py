"""Chat completions from OpenAI-compatible endpoints: one client for judges and for models under evaluation.

What can pass (a busy server, a cut connection, an empty body) is tried again with growing, jittered pauses; what cannot (a refused key, an
unknown model, an empty account) stops at once, and says what would help. Several endpoints that serve the same model are one pool. The
key comes from the environment, goes to the named endpoint and nowhere else (redirections are not followed), and is written nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import importlib
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from harness.core.errors import HarnessError
from harness.core.redaction import quieten, take_apart, without_credentials
from harness.remote.refusals import KEY_VARIABLE, NoReplyError, Options, WrongModelError, refusal
from harness.remote.reply import Reason, Refused, Reply, read_refusal, read_reply

URL_VARIABLE = "OPENAI_BASE_URL"
_LONGEST_PAUSE_S = 30.0
_FIRST_PAUSE_S = 0.5
_MOST_BYTES = 16 << 20
"""Of a reply's body; nobody writes so long an answer."""
_LONGEST_WAIT_S = 60.0
"""So long a server is waited for that asks to be left alone for a while, however long it asks for."""
_MOST_ADAPTED = 8
PAID_ATTEMPTS = 3
"""Calls for one reply that came and was no good: each of them is paid for."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """What is wrong with a reply. `model`: it is another model's, so that all others will be, too."""

    problem: str
    model: bool = False


def require_key(who: str) -> None:
    """Check that there is a key before anything is asked, and that it can be sent.

    Args:
        who: what needs it, for the message.

    Raises:
        HarnessError: the environment has none, or one with characters that no HTTP header can hold.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if not key.strip():
        raise HarnessError(
            f"the {who.partition(' ')[0]} needs an API key",
            where=who,
            remedy=f"set {KEY_VARIABLE} in the environment (any text for your own server, if it needs none)",
        )
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise HarnessError(
            f"the API key in {KEY_VARIABLE} contains a line end, a blank or another character that cannot be sent",
            where=who,
            remedy=f"set {KEY_VARIABLE} to the key only",
        )


def effective_url(url: str | None) -> str | None:
    """The base URL that is asked: the one that is named, else the environment's; None is the vendor's own."""
    return url or os.environ.get(URL_VARIABLE, "").strip() or None


class Pace:
    """A pause that one request's rate limit imposes on all."""

    def __init__(self) -> None:
        self._until = 0.0

    @property
    def left(self) -> float:
        """Seconds of it that are left."""
        return max(0.0, self._until - time.monotonic())

    def hold(self, seconds: float) -> None:
        """Nothing is requested so long."""
        self._until = max(self._until, time.monotonic() + seconds)

    async def wait(self) -> None:
        """Until the pause is over."""
        while left := self.left:
            await asyncio.sleep(left)


@dataclass
class _Member:
    """One endpoint of the pool: its client, the pause that it asked for, and a pause in which others are preferred."""

    url: str | None
    """Without credentials."""
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


Permit = Callable[[], AbstractAsyncContextManager[None]]
"""Entered for every single call, and left when its reply has been checked: a budget lets calls through with it."""
Body = Callable[[], Mapping[str, Any]]


class Endpoints:
    """One or several endpoints of the same model. Use as an asynchronous context.

    Args:
        urls: base URLs; None is the environment's, else the client's default. Credentials in them are sent and not shown.
        model: the name to ask for.
        options: what it is to the user, for errors.
        timeout_s: of one call, from the request to the last byte of the reply.
        attempts: calls for one reply before it is given up; at most `PAID_ATTEMPTS` of them with a reply that is no good.
    """

    def __init__(
        self,
        urls: Sequence[str | None],
        model: str,
        *,
        options: Options | None = None,
        timeout_s: float = 60,
        attempts: int = 6,
    ) -> None:
        self._urls, self.model, self.options = (
            [effective_url(url) for url in urls or [None]],
            model,
            options or Options(),
        )
        self._timeout_s, self._attempts = timeout_s, attempts
        self._members: list[_Member] = []
        self._stack = AsyncExitStack()

    @property
    def urls(self) -> list[str | None]:
        """The pool's URLs, without credentials."""
        return [without_credentials(url) if url else None for url in self._urls]

    async def __aenter__(self) -> Endpoints:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        quieten("httpx", "httpx2", "openai")
        for url in self._urls:
            base, query, header = take_apart(url) if url else (None, {}, None)
            # Retries are ours: the client's own do not tell an empty account from a busy server. Redirections are not followed:
            # a request holds an image and a key, and whoever can redirect it would have them sent to anybody.
            client = AsyncOpenAI(
                base_url=base,
                timeout=self._timeout_s,
                max_retries=0,
                default_query=query,
                default_headers={"Authorization": header} if header else None,
                http_client=DefaultAsyncHttpxClient(follow_redirects=False),
            )
            shown = without_credentials(url) if url else None
            self._members.append(_Member(shown, await self._stack.enter_async_context(client)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self._members.clear()

    async def ask(
        self,
        body: Body,
        check: Callable[[Reply], Wrong | None],
        *,
        affinity: str = "",
        only: int | None = None,
        attempts: int | None = None,
        permit: Permit = contextlib.nullcontext,
        failed: Callable[[], None] = lambda: None,
        adapt: Callable[[Refused], None] = lambda refused: None,
    ) -> Reply:
        """One reply; what can pass is tried again.

        Args:
            body: gives the request, without the model; asked for again before every call.
            check: sees every reply, also those that are no good, and says what is wrong with it, None if nothing.
            affinity: requests with the same text go to the same endpoint while it is well, for its prefix cache.
            only: ask this endpoint of the pool and no other.
            attempts: other than the pool's.
            permit: see `Permit`.
            failed: called within the permit where no reply came of a call that may have been paid for.
            adapt: called where a parameter is refused; where it changes what `body` gives, the request is made once more.

        Raises:
            PromptRefusedError: this request is refused.
            NoReplyError: no good reply came.
            WrongModelError: another model answers.
            EndpointRefusedError: the endpoint refuses the key or the model, the account is empty, ...
        """
        most, calls, paid, adapted = attempts or self._attempts, 0, 0, 0
        while True:
            member = self._members[only] if only is not None else self._choose(affinity)
            await member.pace.wait()
            async with permit():
                sent = dict(body())
                outcome = await self._call(member, sent)
                wrong = check(outcome) if isinstance(outcome, Reply) else None
                if isinstance(outcome, _Failed) and outcome.perhaps_paid:
                    failed()
            if isinstance(outcome, Reply) and wrong is None:
                return outcome
            if isinstance(outcome, Refused):  # a parameter that is no longer sent makes another request of it
                if outcome.reason is Reason.PARAMETER:
                    adapt(outcome)
                adapted += 1
                if outcome.reason is not Reason.PARAMETER or dict(body()) == sent or adapted > _MOST_ADAPTED:
                    raise refusal(outcome, self.options, self._where(member))
                continue
            calls, paid = calls + 1, paid + isinstance(outcome, Reply)
            if calls >= most or paid >= PAID_ATTEMPTS:
                raise self._given_up(wrong or Wrong(str(outcome)), calls, member)
            pause = outcome.asked_to_wait_s if isinstance(outcome, _Failed) else 0.0
            if (
                isinstance(outcome, _Failed)
                and not outcome.busy
                and only is None
                and any(member.well for member in self._members)
            ):
                continue  # another endpoint of the pool is asked at once
            grown = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (calls - 1)) * random.uniform(0.5, 1.5)
            await asyncio.sleep(max(pause, grown))

    async def _call(self, member: _Member, body: Mapping[str, Any]) -> Reply | Refused | _Failed:
        """One call, with a limit to its whole time and to the length of its reply."""
        import openai

        outcome: Reply | Refused | _Failed
        broken: tuple[type[Exception], ...] = (openai.OpenAIError, ValueError, *_transport_errors())
        waits = 0.0
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                member.client.chat.completions.with_streaming_response.create(model=self.model, **body) as response,
            ):
                data, waits = bytearray(), _asked_to_wait(response.headers)
                async for part in response.iter_bytes():
                    data += part
                    if len(data) > _MOST_BYTES:
                        break
                if len(data) > _MOST_BYTES:
                    outcome = _Failed(f"a reply of more than {_MOST_BYTES >> 20} MB", perhaps_paid=True)
                else:
                    outcome = read_reply(bytes(data), response.headers.get("content-type", ""))
        except openai.APIStatusError as error:
            outcome, waits = read_refusal(error.status_code, error.body), _asked_to_wait(error.response.headers)
        except (TimeoutError, openai.APITimeoutError):
            outcome = _Failed(f"no complete reply within {self._timeout_s:g} s", perhaps_paid=True)
        except broken as error:
            outcome = _Failed.of(error)
        if isinstance(outcome, Refused) and outcome.reason.passes:
            busy = outcome.reason is Reason.BUSY
            said = f"it is busy ({outcome})" if busy else f"it failed ({outcome})"
            asked = f", and asks to wait {waits:.0f} s" if waits > _LONGEST_WAIT_S else ""
            outcome = _Failed(said + asked, asked_to_wait_s=min(waits, _LONGEST_WAIT_S), busy=busy)
        if isinstance(outcome, Reply):
            member.failures = 0
        elif isinstance(outcome, _Failed) and outcome.busy:
            member.pace.hold(outcome.asked_to_wait_s)  # a limit is the account's: it holds for the others too
        elif isinstance(outcome, _Failed):
            member.failed(outcome.asked_to_wait_s)
        return outcome

    async def models(self, only: int = 0) -> list[str]:
        """The models that an endpoint says it has; [] where it does not say."""
        import openai

        with contextlib.suppress(openai.OpenAIError, ValueError, TypeError, TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                listed = await self._members[only].client.models.list()
            data = getattr(listed, "data", None)
            return sorted(str(one.id) for one in (data if isinstance(data, list) else []) if hasattr(one, "id"))
        return []

    def _choose(self, affinity: str) -> _Member:
        """The endpoint that this affinity prefers, or the next one that is well; the preferred one where none is."""
        count = len(self._members)
        first = int.from_bytes(hashlib.sha256(affinity.encode("utf-8", "replace")).digest()[:4], "big") % count
        order = [self._members[(first + step) % count] for step in range(count)]
        return next((one for one in order if one.well), order[0])

    def _where(self, member: _Member) -> str:
        return f"model {self.model}" + (f" at {member.url}" if member.url else "")

    def _given_up(self, wrong: Wrong, calls: int, member: _Member) -> HarnessError:
        """The error of a request that got no good reply."""
        if wrong.model:
            options = self.options
            remedy = f"give the name of the model that answers ({options.model}), or accept it: --set {options.group}.accept=any"
            return WrongModelError(wrong.problem, where=self._where(member), remedy=remedy)
        return NoReplyError(f"{wrong.problem}, after {calls} attempt{'s' if calls > 1 else ''}")


@dataclass(frozen=True, slots=True)
class _Failed:
    """A call of which nothing came, for a reason that may pass."""

    problem: str
    perhaps_paid: bool = False
    asked_to_wait_s: float = 0.0
    busy: bool = False

    def __str__(self) -> str:
        return self.problem

    @classmethod
    def of(cls, error: Exception) -> _Failed:
        """Of an exception on the way: whether the request had left, and what is known of it (its text may repeat a header)."""
        cause = error.__cause__ or error
        kind = type(cause).__name__
        if kind in _NOT_SENT:
            return cls(f"no connection ({kind})")
        return cls(f"the connection was cut ({kind})", perhaps_paid=True)


_NOT_SENT = frozenset(
    (
        *("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError"),
        *("InvalidURL", "UnicodeEncodeError"),
    )
)


def _transport_errors() -> tuple[type[Exception], ...]:
    """What a body raises that is cut off while it is read; the client wraps only what comes before."""
    import openai

    package = openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]  # httpx, or httpx2
    http = importlib.import_module(package)
    return http.HTTPError, http.StreamError, http.InvalidURL


def _asked_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds that a busy server asks for in `Retry-After` (a number or a date); 0 where it asks for none, or for nonsense."""
    asked = headers.get("retry-after", "").strip()[:64]
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError):
            return 0.0
    return seconds if seconds > 0 else 0.0  # NaN is not greater, either
