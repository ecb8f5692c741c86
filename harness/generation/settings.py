"""Settings that determine a set of pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.core.config import StrictModel
from harness.serving.base import Sampling


class SampleSettings(StrictModel):
    """How candidates are drawn: RLAIF-V's numbers (Yu et al., CVPR 2025)."""

    samples: int = Field(10, ge=1, le=1000, description="answers per prompt")
    temperature: float = Field(0.7, gt=0, description="temperature of the sampling; at 0 all answers would be equal")
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(512, ge=1, description="longer answers are cut off and never paired")

    def sampling(self, seed: int) -> Sampling:
        """The request's sampling with its own seed."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, seed=seed, max_new_tokens=self.max_new_tokens)


class PairSettings(StrictModel):
    """Which answers make a pair."""

    how: Literal["random", "best-worst"] = Field(
        "random",
        description="of a prompt's pairs with a sufficient gap, a seeded choice (RLAIF-V) or those with the largest gap",
    )
    per_prompt: int = Field(2, ge=1, description="maximum number of pairs per prompt")
    min_gap: float | None = Field(None, ge=0, description="smallest difference of scores; default: the judge's own")
    length_balance: bool = Field(
        True,
        description="leave out pairs whose chosen answer is much shorter than the rejected one, at the ratio that balances the mean "
        "lengths best (RLAIF-V)",
    )
