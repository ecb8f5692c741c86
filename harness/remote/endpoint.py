"""Chat completions from OpenAI-compatible endpoints: one client for judges and for models under evaluation.

Temporary failures (a busy server, a cut connection, an empty body) are retried with growing, jittered pauses; permanent ones (a refused
key, an unknown model, an empty account) stop at once, with a remedy. Several endpoints that serve the same model are one pool. The key
comes from the environment, is sent only to the named endpoint (redirections are not followed), and is never stored.
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
"""Maximum size of a reply's body; no answer is that long."""
_LONGEST_WAIT_S = 60.0
"""Maximum wait for a server that asks for a pause, even if it asks for more."""
_MOST_ADAPTED = 8
PAID_ATTEMPTS = 3
"""Maximum number of paid calls (with an unusable reply) per request."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """The problem of a reply. `model`: another model sent it, which would also send all others."""

    problem: str
    model: bool = False


def require_key(who: str) -> None:
    """Check, before any request, that there is a key and that it can be sent.

    Args:
        who: what needs the key, for the message.

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
    """The base URL to use: the named one, else the environment's; None: the vendor's."""
    return url or os.environ.get(URL_VARIABLE, "").strip() or None


class Pace:
    """A pause for all requests, after one of them met a rate limit."""

    def __init__(self) -> None:
        self._until = 0.0

    @property
    def left(self) -> float:
        """Remaining seconds of the pause."""
        return max(0.0, self._until - time.monotonic())

    def hold(self, seconds: float) -> None:
        """Pause all requests for this time."""
        self._until = max(self._until, time.monotonic() + seconds)

    async def wait(self) -> None:
        """Wait until the pause is over."""
        while left := self.left:
            await asyncio.sleep(left)


@dataclass
class _Member:
    """One endpoint of the pool: its client, the pause that it requested, and a time during which others are preferred."""

    url: str | None
    """Without credentials."""
    client: Any
    pace: Pace = field(default_factory=Pace)
    trouble: Pace = field(default_factory=Pace)
    failures: int = 0
    """Number of consecutive failures, over all requests."""

    @property
    def well(self) -> bool:
        """Whether it can be used now."""
        return not self.trouble.left and not self.pace.left

    def failed(self, pause: float) -> None:
        """Note a failed call: others are preferred for a while, longer after more consecutive failures."""
        self.trouble.hold(max(pause, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self.failures, 8))))
        self.failures += 1


Permit = Callable[[], AbstractAsyncContextManager[None]]
"""Context of every single call, until its reply has been checked; a budget uses it to admit calls."""
Body = Callable[[], Mapping[str, Any]]


class Endpoints:
    """One or several endpoints of the same model. Use as an asynchronous context.

    Args:
        urls: base URLs; None: the environment's, else the client's default. Credentials in them are sent, but not shown.
        model: the name to ask for.
        options: how the user names the endpoint's options, for errors.
        timeout_s: time limit of one call, from the request to the last byte of the reply.
        attempts: maximum number of calls per request; at most `PAID_ATTEMPTS` of them with an unusable reply.
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
            # We retry ourselves: the client does not distinguish an empty account from a busy server. Redirections are not followed: a
            # request contains an image and a key, which a redirection could send to anybody.
            client = AsyncOpenAI(
                base_url=base,
                timeout=self._timeout_s,
                max_retries=0,
                default_query=query,
                default_headers={"Authorization": header} if header else None,
                # A proxy of the environment cannot reach this machine's own servers, such as that of `harness serve`.
                http_client=DefaultAsyncHttpxClient(follow_redirects=False, mounts=dict.fromkeys(_THIS_MACHINE)),
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
        """Get one reply; temporary failures are retried.

        Args:
            body: returns the request, without the model; called again before every call.
            check: gets every reply, also unusable ones, and returns its problem, or None.
            affinity: requests with the same text go to the same endpoint while it works, for its prefix cache.
            only: use only this endpoint of the pool.
            attempts: maximum number of calls, if not the pool's.
            permit: see `Permit`.
            failed: called within the permit if a call, which may have been charged, got no reply.
            adapt: called if a parameter is refused; if it changes the result of `body`, the request is made again.

        Raises:
            PromptRefusedError: this request was refused.
            NoReplyError: no usable reply came.
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
            if isinstance(outcome, Refused):  # without the parameter, it is a different request
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
                continue  # use another endpoint of the pool at once
            grown = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (calls - 1)) * random.uniform(0.5, 1.5)
            await asyncio.sleep(max(pause, grown))

    async def _call(self, member: _Member, body: Mapping[str, Any]) -> Reply | Refused | _Failed:
        """Make one call, with a limit on its total time and on the length of its reply."""
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
            member.pace.hold(outcome.asked_to_wait_s)  # a rate limit belongs to the account, so it pauses all requests
        elif isinstance(outcome, _Failed):
            member.failed(outcome.asked_to_wait_s)
        return outcome

    async def models(self, only: int = 0) -> list[str]:
        """The models that an endpoint lists; [] if it lists none."""
        import openai

        with contextlib.suppress(openai.OpenAIError, ValueError, TypeError, TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                listed = await self._members[only].client.models.list()
            data = getattr(listed, "data", None)
            return sorted(str(one.id) for one in (data if isinstance(data, list) else []) if hasattr(one, "id"))
        return []

    def _choose(self, affinity: str) -> _Member:
        """The endpoint that this affinity prefers, or the next one that works; the preferred one if none works."""
        count = len(self._members)
        first = int.from_bytes(hashlib.sha256(affinity.encode("utf-8", "replace")).digest()[:4], "big") % count
        order = [self._members[(first + step) % count] for step in range(count)]
        return next((one for one in order if one.well), order[0])

    def _where(self, member: _Member) -> str:
        return f"model {self.model}" + (f" at {member.url}" if member.url else "")

    def _given_up(self, wrong: Wrong, calls: int, member: _Member) -> HarnessError:
        """The error of a request without a usable reply."""
        if wrong.model:
            options = self.options
            remedy = f"give the name of the model that answers ({options.model}), or accept it: --set {options.group}.accept=any"
            return WrongModelError(wrong.problem, where=self._where(member), remedy=remedy)
        return NoReplyError(f"{wrong.problem}, after {calls} attempt{'s' if calls > 1 else ''}")


@dataclass(frozen=True, slots=True)
class _Failed:
    """A call that failed for a temporary reason."""

    problem: str
    perhaps_paid: bool = False
    asked_to_wait_s: float = 0.0
    busy: bool = False

    def __str__(self) -> str:
        return self.problem

    @classmethod
    def of(cls, error: Exception) -> _Failed:
        """From an exception of the transport: whether the request was sent, and the reason (without the text, which may repeat a
        header)."""
        cause = error.__cause__ or error
        kind = type(cause).__name__
        if kind in _NOT_SENT:
            return cls(f"no connection ({kind})")
        return cls(f"the connection was cut ({kind})", perhaps_paid=True)


_THIS_MACHINE = ("all://127.0.0.1", "all://localhost", "all://[::1]")
"""Addresses that are asked directly, whatever proxy the environment names."""
_NOT_SENT = frozenset(
    (
        *("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError"),
        *("InvalidURL", "UnicodeEncodeError"),
    )
)


def _transport_errors() -> tuple[type[Exception], ...]:
    """Exceptions of a connection that is cut while the body is read; the client wraps only earlier ones."""
    import openai

    package = openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]  # httpx, or httpx2
    http = importlib.import_module(package)
    return http.HTTPError, http.StreamError, http.InvalidURL


def _asked_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds that a busy server asks for in `Retry-After` (a number or a date); 0 if it asks for none, or the value is invalid."""
    asked = headers.get("retry-after", "").strip()[:64]
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError):
            return 0.0
    return seconds if seconds > 0 else 0.0  # also False for NaN
