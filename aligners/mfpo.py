"""MFPO, Modality-Fair Preference Optimization (Jiang et al., IJCAI 2025, arXiv 2410.15334).

Part 1, the rejected images, is `aligners.rejected_images`; part 2, the balanced objective, is `losses.image_preference`; part 3, easy
examples first, is here.

Our choices, because the paper does not specify them: stages of equal size with one epoch each (its figures show three epochs with one
level after the other), and the model that a stage starts from as its reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from aligners import losses
from aligners.base import Answer, Logps, Loss, Measure, Stage, StageContext
from aligners.rejected_images import ImagePreferenceAligner, ImagePreferenceAlignerSettings
from harness.core.config import StrictModel
from harness.core.types import PreferenceExample

_NAMES = {1: ("all",), 2: ("easy", "hard"), 3: ("easy", "medium", "hard")}


class StageSettings(StrictModel):
    """Number of stages, their borders, and the reference of each."""

    count: int = Field(3, ge=1, description="number of stages")
    borders: tuple[float, ...] = Field(
        (), description="fractions of the sorted examples at which stages end; () for equal parts"
    )
    measure: Measure = Field(
        "token",
        description="token: the paper's sum of -p log p over the tokens; predictive: mean entropy of the distribution",
    )
    answer: Answer = Field(
        "chosen",
        description="whose entropy is measured: the chosen response, or the starting model's own greedy answer",
    )
    max_new_tokens: int = Field(256, ge=1, description="maximum length of the model's own answer")
    reference: Literal["previous", "initial"] = Field(
        "previous", description="reference of a stage: the model that the stage starts from, or the initial one"
    )

    @model_validator(mode="after")
    def _check(self) -> StageSettings:
        if self.borders and (
            len(self.borders) != self.count - 1
            or list(self.borders) != sorted(set(self.borders))
            or not all(0 < border < 1 for border in self.borders)
        ):
            raise ValueError(
                f"{self.count} stages need {self.count - 1} increasing borders between 0 and 1, not {self.borders}"
            )
        return self


class MFPOSettings(ImagePreferenceAlignerSettings):
    """MFPO's settings: weights of the terms, the image preferences, the stages."""

    lambda_text: float = Field(1.0, ge=0, description="weight of the text term")
    lambda_image: float = Field(1.0, ge=0, description="weight of the image term")
    lambda_margin: float = Field(1.0, ge=0, description="weight of the margin term")
    delta: float = Field(0.0, description="reward that the preferred pair should keep")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="label smoothing of the text term")
    stages: StageSettings = StageSettings()


class MFPO(ImagePreferenceAligner[MFPOSettings]):
    """Text and image preferences have equal weight; easy examples come first."""

    name, summary, source = (
        "mfpo",
        "modality-fair preference optimisation",
        "Jiang et al., IJCAI 2025 (arXiv 2410.15334)",
    )
    default_data = "rlhf-v"
    ours = (
        "the paper gives the method, not its constants: those of the keyword graph, the detector, the noise's schedule "
        "(inferred) and scale, the sizes of the stages, beta, learning rate and LoRA are our choices (docs/mfpo.md)"
    )

    def stages(self, examples: Sequence[PreferenceExample], context: StageContext) -> list[Stage]:
        """Section 3.3: easy to hard, by the starting model's entropy on an answer."""
        stages = self.settings.stages
        difficulty = context.difficulty(examples, stages.measure, stages.answer, stages.max_new_tokens)
        return split_by_difficulty(examples, difficulty, stages)

    def loss(self, policy: Logps, reference: Logps) -> Loss:
        """Part 2: see `losses.image_preference`."""
        ratio = {name: policy[name].sums - reference[name].sums for name in ("chosen", "rejected", "image_rejected")}
        settings = self.settings
        loss, terms = losses.image_preference(
            **ratio,
            beta=settings.beta,
            lambda_text=settings.lambda_text,
            lambda_image=settings.lambda_image,
            lambda_margin=settings.lambda_margin,
            delta=settings.delta,
            label_smoothing=settings.label_smoothing,
        )
        return Loss(loss, {name: value.detach() for name, value in terms.items()})


def split_by_difficulty(
    examples: Sequence[PreferenceExample], difficulty: Sequence[float], settings: StageSettings
) -> list[Stage]:
    """Sort by difficulty (low is easy) and cut. Stages without examples are left out.

    Ties keep their order, so the split is deterministic.
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
