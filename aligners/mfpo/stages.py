"""MFPO's part 3: examples sorted by predictive entropy and trained on in stages, easy first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from aligners.base import Stage
from harness.config import StrictModel
from harness.types import PreferenceExample

_NAMES = {1: ("all",), 2: ("easy", "hard"), 3: ("easy", "medium", "hard")}


class StageSettings(StrictModel):
    """How many stages, where they are cut, and what each is held to."""

    count: int = Field(3, ge=1)
    borders: tuple[float, ...] = Field(
        (), description="shares of the sorted examples at which stages end; () for equal parts"
    )
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
    examples: Sequence[PreferenceExample], entropy: Sequence[float], settings: StageSettings
) -> list[Stage]:
    """Sort by entropy (nats a token; low is easy) and cut. Stages without examples are left out.

    Ties keep their order, so that the split is deterministic.
    """
    order = sorted(range(len(examples)), key=lambda index: entropy[index])
    borders = settings.borders or tuple(part / settings.count for part in range(1, settings.count))
    cuts = [0, *(round(border * len(order)) for border in borders), len(order)]
    names = _NAMES.get(settings.count) or tuple(f"part{number + 1}" for number in range(settings.count))
    return [
        Stage(name, [examples[index] for index in order[start:end]], settings.reference)
        for name, start, end in zip(names, cuts[:-1], cuts[1:], strict=True)
        if end > start
    ]
