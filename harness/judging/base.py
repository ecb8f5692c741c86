"""The judge contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.types import Item, Response


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """One answer to grade. `prompt` is the benchmark's filled-in template; a model judge sees nothing else."""

    item: Item
    response: Response
    prompt: str


@dataclass(frozen=True, slots=True)
class JudgeReply:
    """The judge's words, or why there are none (`error`)."""

    item_id: str
    text: str | None
    error: str | None = None


class Judge(ABC):
    """Grades answers. `name` (with the model, where there is one) stands in every table made with it."""

    name: ClassVar[str]

    @abstractmethod
    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        """Yield one reply a request, in any order."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What determined the verdicts: judge name, model, version. JSON-able; no secrets."""
