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

    `sample` numbers repeated requests of the same prompt (votes, and retries after an unreadable reply).
    """

    item: Item
    response: Response
    prompt: str
    sample: int = 0
    system: str = ""
    """The system message, if the benchmark's official judge has one."""


@dataclass(frozen=True, slots=True)
class JudgeReply:
    """The judge's reply, or the reason why there is none (`error`).

    Attributes:
        item_id: the item that was asked about.
        text: the reply.
        error: why there is none.
        cut_off: whether it ended at the limit of tokens, so that its end is missing; False if that is not known.
    """

    item_id: str
    text: str | None
    error: str | None = None
    cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected cost of judging.

    Attributes:
        calls: number of requests that must be sent.
        kept: number of requests with a stored reply.
        prompt_tokens: approximate number, from the length of the prompts.
        completion_tokens: upper bound.
        usd: upper bound in US dollars; None if the price is unknown.
    """

    calls: int
    kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None


class JudgeSettings(StrictModel):
    """Settings of a judge. Subclasses add their own."""


class BudgetError(HarnessError):
    """The next request could exceed `max_cost`. Replies so far are stored."""


class Judge(ABC):
    """Rates answers. `label` (the model, if there is one) is shown in every table with its ratings."""

    name: ClassVar[str]
    Settings: ClassVar[type[JudgeSettings]] = JudgeSettings
    samples: ClassVar[bool] = False
    """Whether repeating a request can give another reply."""
    reads_prompt: ClassVar[bool] = True
    """Whether the reply depends on the benchmark's prompt."""
    votes: int = 1
    """Votes per answer."""
    asks: int = 1
    """Requests per vote if replies cannot be parsed."""

    def __init__(self, settings: JudgeSettings | None = None) -> None:
        self.settings = settings or self.Settings()

    @property
    def label(self) -> str:
        """The name in tables."""
        return self.name

    @abstractmethod
    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        """Yield one reply per request, in any order. No two requests have the same item.

        Raises:
            BudgetError: the budget would be exceeded.
            HarnessError: the judge cannot be reached.
        """

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What determined the verdicts: name of the judge, model, version, cost. Serialisable as JSON, without secrets."""

    def estimate(self, requests: Sequence[JudgeRequest]) -> Estimate:
        """The expected cost of judging these requests, including votes."""
        return Estimate(len(requests) * self.votes)


def check_votes(judge: Judge) -> None:
    """Refuse several votes of a deterministic judge.

    Raises:
        BadInputError: the judge is deterministic and has more than one vote.
    """
    if judge.votes > 1 and not judge.samples:
        raise BadInputError(f"the judge '{judge.name}' is deterministic: its {judge.votes} votes count as one vote")
