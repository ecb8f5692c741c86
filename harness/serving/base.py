"""The backend contract: requests in, responses out as they complete."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from harness.core.types import FinishReason, ImageRef


class Sampling(BaseModel):
    """How tokens are drawn. Greedy by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    max_new_tokens: int = Field(default=512, ge=1)


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one checkpoint. `target` is a key of the backend's targets."""

    id: str
    target: str
    prompt: str
    image: ImageRef
    sampling: Sampling
    details: bool = False
    """Whether the answer is to bring its tokens, of a backend that `gives_details`."""


@dataclass(frozen=True, slots=True)
class TokenDetails:
    """A question and its answer as the model saw them.

    Attributes:
        prompt_ids: token ids of the prompt in the chat template, image tokens expanded.
        token_ids: of the answer, the end token included where there is one.
        logprobs: natural logarithm of each answer token's probability given all before it, at temperature 1.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to the request with this id.

    `model` is the name of the model that answered, where the backend is told one. Token counts are None where nobody counted them.
    `refused` is the reason where this one request cannot be answered (too long, against a vendor's rules): then there is no answer, and
    the request counts as unscored and is asked again by the next command. `refusal` is the model's own answer where it declined (see
    `Response.refusal`): it is paid for and logged like any other answer, and the item is unscored, too.
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


def refusal(request: Request, token: str) -> Completion:
    """What every backend gives for a question that holds a control token: no answer, and the reason (`harness.models.control`)."""
    reason = f"the question contains '{token}', which is a control token for a model, not text"
    return Completion(request.id, request.target, "", "unknown", 0, 0, refused=reason)


class BackendSettings(BaseModel):
    """Options of a backend, recorded in provenance; subclasses add theirs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    decisive: ClassVar[frozenset[str]] = frozenset({"dtype"})
    """Settings that can change an answer, and not only how soon it comes: answers are reused only if these are the same."""
    dtype: str = "auto"

    def identity(self, name: str) -> str:
        """The backend's name with the decisive settings that are not at their default."""
        given = self.model_dump(mode="json", include=set(self.decisive), exclude_defaults=True)
        return f"{name} {json.dumps(given, sort_keys=True)}" if given else name


class Backend(ABC):
    """One loaded base model, serving itself and any adapters of it.

    Args:
        base: folder (or hub id) of the base checkpoint, in the Hugging Face layout; for a remote backend the model's name there.
        adapters: target name -> PEFT adapter folder. The base itself is served under the target name "base".
    """

    name: ClassVar[str]
    Settings: ClassVar[type[BackendSettings]] = BackendSettings
    remote: ClassVar[bool] = False
    """Whether it asks a model that runs elsewhere, by its name, and not weights that lie here."""
    gives_details: ClassVar[bool] = False
    """Whether it knows the tokens that it asks and answers with (`Request.details`); `provenance` then has the `dtype` computed in."""

    def __init__(
        self, base: str | Path, adapters: Mapping[str, Path] | None = None, settings: BackendSettings | None = None
    ) -> None:
        self.base, self.adapters = base, dict(adapters or {})
        self.settings = settings or self.Settings()

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Why this backend cannot run here (what is not installed), or None. Must be cheap."""

    @abstractmethod
    def start(self) -> None:
        """Load the model. Called once, by `__enter__`."""

    @abstractmethod
    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield completions as they finish, in any order, one per request (`Completion.refused` where it cannot be answered).

        Raises:
            HarnessError: the engine failed; what was yielded before stands.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the model; safe to call twice."""

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
