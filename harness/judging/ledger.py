"""The cost of judging so far, and the remaining budget."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from harness.judging.base import BudgetError
from harness.judging.prices import Price


class Ledger:
    """Tokens and dollars of one command; a call is only allowed if its worst case fits into the budget.

    The worst case is an estimate (prompts are not tokenised), which grows when calls cost more. So the budget can be exceeded at most by
    the calls in flight when a call first costs more than its estimate, which is one per worker.
    """

    def __init__(self, price: Price | None, budget: float | None = None) -> None:
        self.price, self.budget = price, budget
        self.calls = self.kept = self.prompt_tokens = self.completion_tokens = self.unknown = 0
        self._unknown_usd = 0.0
        self._reserved, self._under_way, self._scale = 0.0, 0, 1.0
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def usd(self) -> float | None:
        """Dollars spent, as far as the endpoint reported; None if no price is known."""
        return self.price.of(self.prompt_tokens, self.completion_tokens) if self.price else None

    @property
    def note(self) -> str:
        """Text for the progress bar."""
        return f"${self.usd:.3f}" if self.usd is not None else f"{self.prompt_tokens + self.completion_tokens:,} tokens"

    @contextlib.asynccontextmanager
    async def call(self, prompt_tokens: int, completion_tokens: int) -> AsyncIterator[None]:
        """Reserve a call's worst case while it is in flight. A call that does not fit waits until others finish, which mostly cost less.

        Args:
            prompt_tokens: approximate number of tokens to send.
            completion_tokens: maximum number of tokens in the reply.

        Raises:
            BudgetError: no call is in flight, and it does not fit into the remaining budget.
        """
        while (worst := self._worst(prompt_tokens, completion_tokens)) > self._left():
            if not self._under_way:
                raise BudgetError(self._reached(worst))
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._reserved, self._under_way = self._reserved + worst, self._under_way + 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._reserved = self._reserved - worst if self._under_way else 0.0
            self._wake()

    def _wake(self) -> None:
        """Wake all waiting calls, to check the budget again."""
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)

    def _worst(self, prompt_tokens: int, completion_tokens: int) -> float:
        return self._scale * self.price.of(prompt_tokens, completion_tokens) if self.price else 0.0

    def _left(self) -> float:
        """Dollars that are neither spent nor reserved."""
        if self.budget is None:
            return float("inf")
        return self.budget - (self.usd or 0.0) - self._unknown_usd - self._reserved

    def _reached(self, worst: float) -> str:
        spent = self.usd or 0.0
        text = f"the budget of ${self.budget:g} is reached: ${spent:.4f} are spent"
        if self.unknown:
            text += f", at most ${self._unknown_usd:.4f} more for {self.unknown} calls whose cost the endpoint did not report"
        if self.budget is not None and spent > self.budget:
            return (
                f"{text}; ${spent - self.budget:.4f} over the budget, because calls in flight cost more than expected"
            )
        return f"{text}, and the next call may cost ${worst:.4f}"

    def paid(self, prompt_tokens: int | None, completion_tokens: int | None, expected: tuple[int, int]) -> None:
        """Book a call, whether its reply was usable or not.

        Args:
            prompt_tokens: as counted by the endpoint; None if unknown.
            completion_tokens: likewise.
            expected: the reservation for it, which is booked for unknown parts.
        """
        self.calls += 1
        known = prompt_tokens or 0, completion_tokens or 0
        self.prompt_tokens += known[0]
        self.completion_tokens += known[1]
        unknown = expected[0] if prompt_tokens is None else 0, expected[1] if completion_tokens is None else 0
        if any(unknown):
            self.unknown += 1
            self._unknown_usd += self._worst(*unknown)
        elif self.price and (worst := self.price.of(*expected)) > 0:
            self._scale = max(self._scale, self.price.of(*known) / worst)

    def perhaps_paid(self, expected: tuple[int, int]) -> None:
        """Book a call without a reply, which the endpoint may charge for."""
        self.paid(None, None, expected)

    def summary(self) -> dict[str, Any]:
        """Value for the score record."""
        return {
            "calls": self.calls,
            "kept": self.kept,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "usd": None if self.usd is None else round(self.usd, 6),
            "usd_per_million_tokens": list(self.price) if self.price else None,
            **({"calls_of_unknown_cost": self.unknown} if self.unknown else {}),
            **({"usd_at_most_of_unknown_cost": round(self._unknown_usd, 6)} if self.unknown and self.price else {}),
        }
