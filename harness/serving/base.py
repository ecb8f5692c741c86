"""The backend contract: requests in, responses out as they complete."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from harness.core.types import FinishReason, ImageRef


class Sampling(BaseModel):
    """Sampling parameters. The default is greedy decoding."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    temperature: float = Field(default=0.0, ge=0, description="0 means greedy decoding")
    top_p: float = Field(default=1.0, gt=0, le=1, description="nucleus sampling")
    # For vLLM, -1 means no seed at all; backends and endpoints take 64 bits with a sign.
    seed: int = Field(0, ge=0, lt=2**63, description="seed of sampling")
    max_new_tokens: int = Field(default=512, ge=1, description="maximum length of an answer")


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one checkpoint. `target` is a key of the backend's targets."""

    id: str
    target: str
    prompt: str
    image: ImageRef
    sampling: Sampling
    details: bool = False
    """Whether the completion must contain its tokens; only for a backend with `gives_details`."""
    choices: tuple[str, ...] = ()
    """Nothing is generated: the completion's text is the choice whose token is the likeliest next one; only for a backend with
    `gives_likelihoods`. The sampling has no effect."""
    beginning: str = ""
    """The beginning of the answer, which the model continues; only for a backend with `continues`. The completion's text is the whole
    answer."""
    stop: tuple[str, ...] = ()
    """The answer ends after the first of these texts, if the model writes one of them; only for a backend with `continues`."""


@dataclass(frozen=True, slots=True)
class TokenDetails:
    """A question and its answer as the model saw them.

    Attributes:
        prompt_ids: token ids of the prompt in the chat template, image tokens expanded.
        token_ids: token ids of the answer, including the end token if there is one.
        logprobs: log-probability (natural logarithm) of each answer token given all tokens before it, at temperature 1.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to the request with this id.

    Attributes:
        model: name of the model that answered, if the backend reports it.
        prompt_tokens, completion_tokens: token counts; None if unknown.
        refused: the reason if this request cannot be answered (too long, against a vendor's rules). Then there is no answer, the item
            is unscored, and the next command asks again.
        refusal: the model's own words if it declined to answer (see `Response.refusal`). It is logged like any other answer, and the
            item is unscored.
        likelihoods: for a request with `choices`, the log-probability (natural logarithm) of each as the next token, at temperature 1;
            None for one that is less likely than all the tokens that an endpoint reports.
    """

    id: str
    target: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str = ""
    refused: str | None = None
    refusal: str | None = None
    details: TokenDetails | None = None
    likelihoods: tuple[float | None, ...] | None = None


def chosen(request: Request, likelihoods: Sequence[float | None], prompt_tokens: int | None, **more: Any) -> Completion:
    """The completion for a request with choices. At least one likelihood is known."""
    text = likeliest(request.choices, likelihoods)
    return Completion(
        request.id, request.target, text, "stop", prompt_tokens, 1, likelihoods=tuple(likelihoods), **more
    )


def likeliest(choices: Sequence[str], likelihoods: Sequence[float | None]) -> str:
    """The choice with the greatest likelihood, of equal ones the first."""
    order = [-math.inf if one is None else one for one in likelihoods]
    return choices[order.index(max(order))]


def refusal(request: Request, token: str) -> Completion:
    """The completion for a question that contains a control token: no answer, and the reason (`harness.models.control`)."""
    reason = f"the question contains '{token}', which is a control token for a model, not text"
    return Completion(request.id, request.target, "", "unknown", 0, 0, refused=reason)


class BackendSettings(BaseModel):
    """Settings of a backend, recorded in the provenance. Subclasses add their own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    decisive: ClassVar[frozenset[str]] = frozenset({"dtype"})
    """Settings that can change an answer, not only its speed. Answers are reused only if these are equal."""
    dtype: str = Field("auto", description="float32, bfloat16 or float16; auto: the backend's default")

    @property
    def gpus(self) -> int:
        """Number of GPUs that the backend uses, if there are any."""
        return 1

    def identity(self, name: str) -> str:
        """The backend's name, with the decisive settings that differ from their defaults."""
        given = self.model_dump(mode="json", include=set(self.decisive), exclude_defaults=True)
        return f"{name} {json.dumps(given, sort_keys=True)}" if given else name


class Backend(ABC):
    """Serves one base model and any number of its adapters.

    Args:
        base: folder or hub id of the base checkpoint, in the Hugging Face layout; for a remote backend, the model's name there.
        adapters: target name -> PEFT adapter folder. The base itself is served under the target name "base".
    """

    name: ClassVar[str]
    Settings: ClassVar[type[BackendSettings]] = BackendSettings
    packages: ClassVar[tuple[str, ...]] = ()
    """Modules of this tool's extras that it imports; the error for a missing package names the command that installs it."""
    remote: ClassVar[bool] = False
    """Whether the backend asks a remote model by its name, and does not load local weights."""
    gives_details: ClassVar[bool] = False
    """Whether it can return the tokens of prompt and answer (`Request.details`); `provenance` then has the `dtype` of computation."""
    gives_likelihoods: ClassVar[bool] = False
    """Whether it can compare the likelihoods of given answers (`Request.choices`)."""
    continues: ClassVar[bool] = False
    """Whether it can continue an answer, and end it at given texts (`Request.beginning`, `Request.stop`)."""

    def __init__(
        self, base: str | Path, adapters: Mapping[str, Path] | None = None, settings: BackendSettings | None = None
    ) -> None:
        self.base, self.adapters = base, dict(adapters or {})
        self.settings = settings or self.Settings()

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Why this backend cannot run on this machine (such as a missing package), or None. Must be cheap."""

    def prepare(self) -> None:  # noqa: B027 (most backends start fast)
        """Begin what takes long and needs no requests, such as the import of libraries in another process, and return at once. Called
        before `start`, if at all, while the caller still checks its requests; `close` ends it."""

    @abstractmethod
    def start(self) -> None:
        """Load the model. Called once, by `__enter__`."""

    def check_likelihoods(self) -> None:  # noqa: B027 (most backends know without asking)
        """Called once, after `start` and before the first request, if requests have `choices`. For a backend that only learns by asking
        whether it can compare likelihoods.

        Raises:
            BadInputError: it cannot.
        """

    @abstractmethod
    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield completions as they finish, in any order, one per request; `Completion.refused` is set if it cannot be answered.

        Raises:
            HarnessError: the engine failed; completions yielded before remain valid.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the model; safe to call twice, and before `start`."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What determined the answers: backend, version, dtype, flags. JSON-able."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
