"""Score files with changed pictures, see `harness.evaluation.reliance`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from harness.core.reading import read_json
from harness.core.record import Number, Record, Whole, check
from harness.records.score_files import ROUNDING, ScoresRecord


class GapRecord(Record):
    """A difference, see `harness.core.stats.Difference`."""

    value: Number
    ci: Annotated[list[Number], Field(min_length=2, max_length=2)]
    p: Annotated[float, Field(ge=0, le=1)]
    detectable: Any = Field(None, description="the smallest true difference that would be found")


class ChangedMetric(Record):
    """A metric with the original picture, with the changed picture, and the difference."""

    clean: Number
    changed: Number
    gap: GapRecord


Rate = Annotated[float, Field(ge=0, le=1 + ROUNDING)]


class UnchangedRecord(Record):
    """The fraction of answers that stay the same with the changed picture."""

    value: Rate
    ci: Annotated[list[Rate], Field(min_length=2, max_length=2)] | None


class RelianceRecord(Record):
    """See `harness.evaluation.reliance.reliance`; `clean_items` is the SHA-256 of the item file that it compares with."""

    clean_items: str
    n: Whole
    unchanged: UnchangedRecord
    metrics: dict[str, ChangedMetric]


class PicturesRecord(Record):
    """How the pictures were changed, see `harness.evaluation.pictures.Change.about`."""

    change: str = Field(description="as `--noise` names it")
    kind: Literal["noise", "blank", "shuffled"]
    seed: Any = None
    version: Any = Field(None, description="of the code that changes pictures")
    step: Annotated[int, Field(ge=0, le=999)] | None = Field(None, description="of the diffusion")
    schedule: Any = None
    scale: Any = None
    alpha_bar: Any = None
    without_picture: int | None = Field(
        None, description="number of items that are asked without a picture, and so as they are"
    )

    @model_validator(mode="after")
    def _noise_has_a_step(self) -> Self:
        if (self.kind == "noise") != (self.step is not None):
            raise ValueError("noise must have a step, and nothing else may have one")
        return self


class ChangedScoresRecord(ScoresRecord):
    """A score file with changed pictures."""

    pictures: PicturesRecord
    reliance: RelianceRecord


def read_changed_scores(path: Path) -> ChangedScoresRecord:
    """A score file with changed pictures.

    Raises:
        BadInputError: it cannot be read or used.
    """
    return check(ChangedScoresRecord, read_json(path, "scores"), "scores", path)
