"""MFPO's training in stages: examples sorted by their difficulty, easy first.

Source: Jiang et al., IJCAI 2025, section 3.3: easy, medium and hard, one after the other, by the entropy of the tokens.
Ours, since the paper does not say: thirds of equal size, one epoch each (its figures show three epochs in which the levels follow each
other), and that a stage's reference is the model that it starts from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from aligners.base import Answer, Measure, Stage
from harness.config import StrictModel
from harness.types import PreferenceExample

_NAMES = {1: ("all",), 2: ("easy", "hard"), 3: ("easy", "medium", "hard")}


class StageSettings(StrictModel):
    """How many stages, where they are cut, and what each is held to."""

    count: int = Field(3, ge=1)
    borders: tuple[float, ...] = Field(
        (), description="shares of the sorted examples at which stages end; () for equal parts"
    )
    measure: Measure = Field(
        "token",
        description="token: the paper's sum of -p log p over the tokens; predictive: mean entropy of the distribution",
    )
    answer: Answer = Field(
        "chosen",
        description="the answer that is measured: the chosen response, or the starting model's own, greedy one",
    )
    max_new_tokens: int = Field(256, ge=1, description="length of the model's own answer")
    reference: Literal["previous", "initial"] = Field(
        "previous", description="the model that the stage starts from, or the first one"
    )

    @model_validator(mode="after")
    def _check(self) -> StageSettings:
        if self.borders and (
            len(self.borders) != self.count - 1
            or list(self.borders) != sorted(set(self.borders))
            or not all(0 < border < 1 for border in self.borders)
        ):
            raise ValueError(
                f"{self.count} stages need {self.count - 1} rising borders between 0 and 1, not {self.borders}"
            )
        return self


def split_by_difficulty(
    examples: Sequence[PreferenceExample], difficulty: Sequence[float], settings: StageSettings
) -> list[Stage]:
    """Sort by difficulty (low is easy) and cut. Stages without examples are left out.

    Ties keep their order, so that the split is deterministic.
    """
    order = sorted(range(len(examples)), key=lambda index: difficulty[index])
    borders = settings.borders or tuple(part / settings.count for part in range(1, settings.count))
    cuts = [0, *(round(border * len(order)) for border in borders), len(order)]
    names = _NAMES.get(settings.count) or tuple(f"part{number + 1}" for number in range(settings.count))
    return [
        Stage(name, [examples[index] for index in order[start:end]], settings.reference)
        for name, start, end in zip(names, cuts[:-1], cuts[1:], strict=True)
        if end > start
    ]
