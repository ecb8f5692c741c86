"""What a judge has cost, and what it may still cost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from harness.judging.base import BudgetError
from harness.judging.prices import Price


class Ledger:
    """Tokens and dollars of one command; a request is only let through if its worst case fits into the budget."""

    def __init__(self, price: Price | None, budget: float | None = None) -> None:
        self.price, self.budget = price, budget
        self.calls = self.kept = self.prompt_tokens = self.completion_tokens = 0
        self._reserved = 0.0

    @property
    def usd(self) -> float | None:
        """Dollars spent; None where no price is known."""
        return self.price.of(self.prompt_tokens, self.completion_tokens) if self.price else None

    @property
    def note(self) -> str:
        """For the progress bar."""
        return f"${self.usd:.3f}" if self.usd is not None else f"{self.prompt_tokens + self.completion_tokens:,} tokens"

    @contextlib.contextmanager
    def reserve(self, prompt_tokens: int, completion_tokens: int) -> Iterator[None]:
        """Hold back a request's worst case while it is under way.

        Raises:
            BudgetError: it does not fit into what is left.
        """
        worst = self.price.of(prompt_tokens, completion_tokens) if self.price else 0.0
        if self.budget is not None and (self.usd or 0.0) + self._reserved + worst > self.budget:
            raise BudgetError(f"the budget of ${self.budget:g} is reached: ${self.usd or 0:.4f} are spent")
        self._reserved += worst
        try:
            yield
        finally:
            self._reserved -= worst

    def paid(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Book a call, whatever its reply was good for."""
        self.calls += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def summary(self) -> dict[str, Any]:
        """For the record."""
        return {
            "calls": self.calls,
            "kept": self.kept,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "usd": None if self.usd is None else round(self.usd, 6),
            "usd_per_million_tokens": list(self.price) if self.price else None,
        }
