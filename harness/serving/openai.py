"""OpenAI-compatible endpoints, one or several as a pool: a hosted model, `vllm serve`, or `harness serve`."""

from __future__ import annotations

import asyncio
import base64
import difflib
import importlib.metadata
import io
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from harness.core.endpoint_url import EndpointUrl
from harness.core.errors import BadInputError, HarnessError
from harness.core.types import FinishReason, ImageRef
from harness.models import control_in
from harness.remote.endpoint import Endpoints, Wrong, require_key
from harness.remote.event_loop import EventLoop
from harness.remote.model_names import UNNAMED, difference
from harness.remote.refusals import EndpointRefusedError, NoReplyError, PromptRefusedError
from harness.remote.reply import Reason, Refused, Reply
from harness.serving import endpoint_likelihoods
from harness.serving.base import Backend, BackendSettings, Completion, Request, refusal

logger = logging.getLogger(__name__)

_MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
_PROBES = 4
"""Number of calls without an answer after which an endpoint counts as unreachable."""
_GIVEN_UP_IN_A_ROW = 8
"""Number of consecutive requests without a reply after which the evaluation stops."""


class OpenAISettings(BackendSettings):
    """Settings of requests to an endpoint. The key comes from the environment and is never stored."""

    decisive: ClassVar[frozenset[str]] = frozenset({"detail", "extra"})
    endpoints: tuple[EndpointUrl, ...] = Field(
        default=(), repr=False, description="base URLs; none: OPENAI_BASE_URL, or else the vendor's"
    )
    concurrency: int = Field(default=32, ge=1, description="concurrent requests, over all endpoints")
    timeout_s: float = Field(default=180, gt=0, description="time limit of a request in seconds")
    attempts: int = Field(default=8, ge=1, description="attempts per answer")
    accept: Literal["same", "any"] = Field(
        default="same", description="any: accept answers from a model with another name than the requested one"
    )
    token_parameter: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        default="auto",
        description="parameter name of an answer's limit; auto: max_tokens until the endpoint refuses it",
    )
    detail: Literal["auto", "low", "high"] | None = Field(
        default=None, description="detail level of images, if the vendor supports it"
    )
    extra: dict[str, Any] = Field(
        default={}, description="additional parameters of every request, e.g. reasoning_effort"
    )

    @field_validator("dtype")
    @classmethod
    def _not_ours(cls, dtype: str) -> str:
        if dtype != "auto":
            raise ValueError("an endpoint computes in the dtype that it was started with")
        return dtype


class OpenAIBackend(Backend):
    """Images are sent as data URLs. `base` is the model's name at the endpoint; adapters are not supported."""

    name = "openai"
    remote = True
    gives_likelihoods = True
    Settings = OpenAISettings
    settings: OpenAISettings

    def __init__(
        self, base: str | Path, adapters: Mapping[str, Path] | None = None, settings: BackendSettings | None = None
    ) -> None:
        super().__init__(base, adapters, settings)
        self.model = str(base)
        self._loop: EventLoop | None = None
        self._answered_by: set[str] = set()
        named = self.settings.token_parameter
        self._token_parameter: str = "max_tokens" if named == "auto" else named

    @classmethod
    def missing(cls) -> str | None:
        """It needs no further packages."""
        return None

    def start(self) -> None:
        """Ask every endpoint one question about a small picture, to find problems before a suite is started.

        Raises:
            HarnessError: no key, an endpoint that cannot be reached, refuses the key, or does not know the model.
            BadInputError: an endpoint that takes no images, or endpoints that serve different models.
        """
        if self.adapters:
            raise BadInputError(
                "an endpoint cannot load adapters",
                where=", ".join(self.adapters),
                remedy="serve them there and select one with --model, or use --backend vllm",
            )
        require_key(f"endpoint, model {self.model}")
        self._loop = EventLoop()
        settings = self.settings
        self._pool = Endpoints(settings.endpoints, self.model, timeout_s=settings.timeout_s, attempts=settings.attempts)
        if not settings.endpoints:
            logger.info("no --endpoint given: using the vendor's")
        self._loop.run(self._pool.__aenter__())
        answered = [self._loop.run(self._probe(number)) for number in range(len(self._pool.urls))]
        if len(set(answered)) > 1:
            pairs = ", ".join(f"{url}: {model}" for url, model in zip(self._pool.urls, answered, strict=True))
            raise BadInputError(
                "the endpoints serve different models", where=pairs, remedy="give endpoints of one model only"
            )

    async def _probe(self, number: int) -> str:
        """The name of the model that answers at an endpoint; problems are diagnosed by asking again without the image.

        Raises:
            HarnessError: the endpoint gives no answer, or refuses everything.
            BadInputError: the endpoint knows no such model, or takes no images.
        """
        url = self._pool.urls[number] or "the vendor's endpoint"
        where = f"model {self.model} at {url}"
        try:
            reply = await self._ask("Describe this image.", _picture(), {"temperature": 0.0}, 16, only=number)
            return self._note(reply.model)
        except NoReplyError as error:
            raise HarnessError(
                f"the endpoint gives no answer: {error.problem}",
                where=where,
                remedy="check the URL (it usually ends in /v1) and that the server runs",
            ) from None
        except PromptRefusedError as refused:
            try:
                await self._ask("Say yes.", None, {"temperature": 0.0}, 16, only=number)
            except PromptRefusedError:
                raise BadInputError(
                    f"the endpoint refuses the request: {refused.problem}",
                    where=where,
                    remedy="its message says why; --set 'backend.extra={NAME: VALUE}' sends additional parameters",
                ) from None
            raise BadInputError(
                f"the endpoint answers text but accepts no images: {refused.problem}",
                where=where,
                remedy="choose a vision-language model (--model), or serve one: harness serve RUN",
            ) from None
        except EndpointRefusedError as error:
            if error.refused.reason is Reason.PARAMETER and error.refused.parameter == "temperature":
                raise BadInputError(
                    f"the model does not accept the temperature of the sampling: {error.refused}",
                    where=where,
                    remedy="--set 'backend.extra={temperature: 1}' sends the one that it allows, null sends none; "
                    "its answers are then not greedy, and the record says so",
                ) from None
            if error.refused.reason not in (Reason.MODEL, Reason.ADDRESS):
                raise
            known = await self._pool.models(number)
            if error.refused.reason is Reason.ADDRESS and (not known or self.model in known):
                raise
            near = difflib.get_close_matches(self.model, known, n=3, cutoff=0.3) or known[:8]
            raise BadInputError(
                f"the endpoint has no model '{self.model}'" + (f"; it has {', '.join(near)}" if near else ""),
                where=url,
                remedy="choose one that it has: --model NAME",
            ) from None

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """See `Backend.generate`. At most `concurrency` requests are in flight; further requests and their images are not read yet."""
        assert self._loop is not None
        waiting = iter(requests)
        running: set[asyncio.Task[Completion]] = set()
        lost, in_a_row = 0, 0
        stopped: Exception | None = None
        last: NoReplyError | None = None
        while True:
            free = self.settings.concurrency - len(running) if stopped is None else 0
            new = list(itertools.islice(waiting, free))
            if not new and not running:
                break
            done, running = self._loop.run(self._until_some_are_done(new, running))
            for task in done:
                try:
                    answer = task.result()
                except NoReplyError as error:
                    lost, in_a_row, last = lost + 1, in_a_row + 1, error
                    if in_a_row >= _GIVEN_UP_IN_A_ROW:
                        stopped = stopped or self._unanswered(lost, error)
                except Exception as error:  # noqa: BLE001 (whatever it is, what is under way is waited for, since it is paid for)
                    stopped = stopped or error
                else:
                    in_a_row = 0
                    yield answer
        if stopped or last:
            raise stopped or self._unanswered(lost, last)  # type: ignore[misc, arg-type]

    async def _until_some_are_done(
        self, new: Sequence[Request], running: set[asyncio.Task[Completion]]
    ) -> tuple[set[asyncio.Task[Completion]], set[asyncio.Task[Completion]]]:
        """Ask the new requests beside those that run; returns the tasks that are done, and those that still run."""
        tasks = running | {asyncio.create_task(self._answer(request)) for request in new}
        return await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    def _unanswered(self, count: int, error: NoReplyError) -> HarnessError:
        return HarnessError(
            f"{count} requests got no answer; the last: {error.problem}",
            where=f"model {self.model} at {', '.join(url or 'the vendor' for url in self._pool.urls)}",
            remedy="run the same command again for the rest; answers so far are stored",
        )

    def check_likelihoods(self) -> None:
        """Ask every endpoint for the log-probabilities of one answer's tokens.

        Raises:
            BadInputError: one refuses to send them, or sends none.
        """
        assert self._loop is not None
        for number, url in enumerate(self._pool.urls):
            try:
                asked = self._ask("Say yes.", _picture(), endpoint_likelihoods.PARAMETERS, 1, only=number)
                sent = self._loop.run(asked).first_token
                said = "its reply has no logprobs"
            except (PromptRefusedError, EndpointRefusedError) as error:
                sent, said = (), error.problem
            if not sent:
                raise BadInputError(
                    f"the endpoint gives no log-probabilities, so the likelihoods of answers cannot be compared: {said}",
                    where=f"model {self.model} at {url or 'the vendor'}",
                    remedy="let the model write its answers (--set SUITE.answer=text), or use another endpoint or a local model",
                )

    async def _answer(self, request: Request) -> Completion:
        if token := control_in(request.prompt):
            return refusal(request, token)
        sampling, most = request.sampling, request.sampling.max_new_tokens
        limits: dict[str, Any] = {"temperature": sampling.temperature}
        if sampling.temperature:
            limits |= {"top_p": sampling.top_p, "seed": sampling.seed}
        if request.choices:
            limits, most = endpoint_likelihoods.PARAMETERS, 1
        home = str(request.image.path or request.image.name)
        try:
            reply = await self._ask(request.prompt, request.image, limits, most, affinity=home)
        except PromptRefusedError as error:
            return Completion(request.id, request.target, "", "unknown", None, None, refused=error.problem)
        if request.choices and reply.refusal is None and not reply.filtered:
            return endpoint_likelihoods.compared(request, reply, self._note(reply.model))
        reason: FinishReason = reply.finish_reason if reply.finish_reason in ("stop", "length") else "unknown"  # type: ignore[assignment]
        return Completion(
            request.id,
            request.target,
            (reply.text or "").strip(),
            reason,
            reply.prompt_tokens,
            reply.completion_tokens,
            model=self._note(reply.model),
            refusal=_refusal(reply, most),
        )

    async def _ask(
        self,
        prompt: str,
        image: ImageRef | None,
        limits: Mapping[str, Any],
        most_tokens: int,
        *,
        only: int | None = None,
        affinity: str = "",
    ) -> Reply:
        message = self._message(prompt, None if image is None or image.absent else image)
        known = {"temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "reasoning_effort"}
        extra = self.settings.extra
        named = {key: value for key, value in extra.items() if key in known}
        others = {key: value for key, value in extra.items() if key not in known}

        def body() -> dict[str, Any]:
            whole = {**limits, self._token_parameter: most_tokens} | named
            sent = {key: value for key, value in whole.items() if value is not None}  # `temperature: null` sends none
            return sent | {"messages": [message]} | ({"extra_body": others} if others else {})

        attempts = _PROBES if only is not None else None
        return await self._pool.ask(
            body, self._wrong, only=only, affinity=affinity, attempts=attempts, adapt=self._adapt
        )

    def _adapt(self, refused: Refused) -> None:
        """Send the limit of answer tokens under its other name, if the settings leave the name open."""
        if self.settings.token_parameter == "auto" and refused.parameter == self._token_parameter == "max_tokens":
            self._token_parameter = "max_completion_tokens"
            logger.info("the endpoint refuses max_tokens: max_completion_tokens is sent instead")

    def _message(self, prompt: str, image: ImageRef | None) -> dict[str, Any]:
        """One user turn with the image first, so that the server's prefix cache can contain it."""
        prompt = prompt.encode("utf-8", "replace").decode()
        if image is None:
            return {"role": "user", "content": prompt}
        picture: dict[str, Any] = {"url": data_url(image)}
        if self.settings.detail:
            picture["detail"] = self.settings.detail
        return {
            "role": "user",
            "content": [{"type": "image_url", "image_url": picture}, {"type": "text", "text": prompt}],
        }

    def _wrong(self, reply: Reply) -> Wrong | None:
        """The problem of a reply, or None. An empty text is an answer if the server reports a normal end."""
        if reply.text is None:
            return Wrong(f"the endpoint sent {reply.problem}")
        if reply.says_nothing and reply.refusal is None and reply.finish_reason == "unknown":
            return Wrong("the endpoint sent an empty reply")
        if self.settings.accept == "same" and difference(self.model, reply.model) is None:
            return Wrong(f"the answer came from '{reply.model}', not from '{self.model}'", model=True)
        return None

    def _note(self, model: str) -> str:
        """Record the model that answered; log once if its name differs from the requested one."""
        if model not in self._answered_by:
            self._answered_by.add(model)
            said = difference(self.model, model)
            if model == UNNAMED:
                said = f"the endpoint does not say which model answers; '{self.model}' was asked for"
            if said is None:
                said = f"the answers come from '{model}', not from '{self.model}' (backend.accept=any)"
            if said:
                logger.warning(said)
        return model

    def close(self) -> None:
        """Close the connections."""
        if self._loop is not None:
            try:
                self._loop.run(self._pool.__aexit__())
            finally:
                self._loop.close()
                self._loop = None

    def provenance(self) -> dict[str, Any]:
        """Endpoints, the requested model and those that answered, and the basis of the checkpoint's identity. No key."""
        return {
            "backend": self.name,
            "distribution": f"openai {importlib.metadata.version('openai')}",
            "device": "endpoint",
            "identity": "the model's name: an endpoint's weights cannot be hashed",
            "model": self.model,
            "answered_by": sorted(self._answered_by),
            "token_parameter": self._token_parameter,
            "settings": self.settings.model_dump(mode="json"),
        }


def _refusal(reply: Reply, most_tokens: int) -> str | None:
    """Why a reply is not an answer although asking again would not help; None if it is one."""
    if reply.refusal:
        return reply.refusal
    if reply.filtered:
        return "the endpoint's content filter cut the answer"
    if reply.says_nothing and reply.finish_reason == "length":
        more = f"--set sampling.max_new_tokens={4 * most_tokens}"
        return f"cut off after {most_tokens} tokens, before the first word (reasoning counts): {more}"
    return None


def data_url(image: ImageRef) -> str:
    """An image as a data URL: its own bytes if every server decodes them as we do, else the decoded image as PNG.

    Raises:
        BadInputError: it does not decode.
    """
    from PIL import Image

    data, mime = image.read(), None
    if not image.facts().treated:
        with Image.open(io.BytesIO(data)) as opened:
            mime = _MIME.get(opened.format or "")
    if mime is None:
        stream = io.BytesIO()
        image.open().save(stream, "PNG")
        data, mime = stream.getvalue(), "image/png"
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _picture() -> ImageRef:
    """A small grey picture for a test question."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(stream, "PNG")
    return ImageRef(data=stream.getvalue(), name="probe")
