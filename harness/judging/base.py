"""The judge contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.core.config import StrictModel
from harness.core.errors import BadInputError, HarnessError
from harness.core.types import Item, Response


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """One answer to grade. `prompt` is the benchmark's filled-in template; a model judge sees nothing else.

    `sample` numbers the times that the same thing is asked (votes, and askings again after a reply that cannot be read).
    """

    item: Item
    response: Response
    prompt: str
    sample: int = 0


@dataclass(frozen=True, slots=True)
class JudgeReply:
    """The judge's words, or why there are none (`error`)."""

    item_id: str
    text: str | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What judging will take, before it is paid for.

    Attributes:
        calls: requests that must be made; `kept` have a reply already.
        prompt_tokens: about so many, from the length of the prompts.
        completion_tokens: at most so many.
        usd: at most so much; None where the price is not known.
    """

    calls: int
    kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None


class JudgeSettings(StrictModel):
    """Options of a judge; subclasses add theirs."""


class BudgetError(HarnessError):
    """The next request could cost more than is left of `max_cost`. What was judged is kept."""


class Judge(ABC):
    """Grades answers. `label` (the model, where there is one) stands in every table made with it."""

    name: ClassVar[str]
    Settings: ClassVar[type[JudgeSettings]] = JudgeSettings
    samples: ClassVar[bool] = False
    """Whether asking the same thing again can give another reply."""
    reads_prompt: ClassVar[bool] = True
    """Whether the benchmark's prompt decides what it says."""
    votes: int = 1
    """How often each answer is judged."""
    asks: int = 1
    """How often a vote is asked for whose reply cannot be read."""

    def __init__(self, settings: JudgeSettings | None = None) -> None:
        self.settings = settings or self.Settings()

    @property
    def label(self) -> str:
        """How tables call it."""
        return self.name

    @abstractmethod
    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        """Yield one reply a request, in any order. No two requests have the same item.

        Raises:
            BudgetError: it would cost more than is allowed.
            HarnessError: the judge cannot be asked at all.
        """

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What determined the verdicts: judge name, model, version, what it took. JSON-able; no secrets."""

    def estimate(self, requests: Sequence[JudgeRequest]) -> Estimate:
        """What judging these will take, votes included."""
        return Estimate(len(requests) * self.votes)


def check_votes(judge: Judge) -> None:
    """Refuse votes of a judge that always says the same.

    Raises:
        BadInputError: more than one vote of such a judge.
    """
    if judge.votes > 1 and not judge.samples:
        raise BadInputError(f"the judge '{judge.name}' is deterministic: its {judge.votes} votes count as one vote")
