"""What an evaluation of an experiment scores, and which score files are the experiment's: those that its settings and its judge made. The
same answers may also have been scored with another extractor or judge, by another experiment or by hand, and these scores are beside the
experiment's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.records.score_files import SuiteScores


@dataclass(frozen=True)
class Scoring:
    """How an experiment scores a suite.

    Attributes:
        settings: of the suite, with their defaults, as score files have them.
        judge: its name; None if the suite needs none.
        judge_model: the model that is asked; None for a judge without a model among its settings.
    """

    settings: Mapping[str, Any]
    judge: str | None = None
    judge_model: str | None = None

    def made(self, record: SuiteScores) -> bool:
        """Whether scores were made in this way. Settings that a file of an older version lacks are not compared."""
        if any(record.settings.get(key, value) != value for key, value in self.settings.items()):
            return False
        if self.judge is None or record.judge is None:
            return self.judge is None and record.judge is None
        return record.judge.judge == self.judge and self.judge_model in (None, record.judge.model)
