"""Answers of another set of pairs, for the same requests: another judge, or other pairs, need no second sampling."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path

from harness.core.errors import BadInputError
from harness.evaluation.responses import LOG, complete_answers
from harness.records.answer_files import AnswerRecord

CANDIDATES = "candidates"
"""Folder of a set with the logs of its answers and verdicts."""


class KeptAnswers:
    """The whole answers that a set has; another process may be adding to them."""

    def __init__(self, folder: Path) -> None:
        """Find the logs.

        Args:
            folder: of a set that `harness data generate` made, complete or not.

        Raises:
            BadInputError: it has no answers.
        """
        self.folder = folder
        self._logs = sorted(log.parent for log in (folder / CANDIDATES).glob(f"*/{LOG}"))
        if not self._logs:
            raise BadInputError(
                "no answers of this set are kept here",
                where=f"--answers-of {folder}",
                remedy="give the folder that `harness data generate` wrote to; it has a folder 'candidates', which `push` leaves out",
            )

    @cached_property
    def _places(self) -> dict[bytes, int]:
        """Request -> number of the log that has its answer; in bytes, because a set may have millions."""
        return {
            bytes.fromhex(record.request): number
            for number, log in enumerate(self._logs)
            for record in complete_answers(log)
        }

    def to(self, requests: Collection[str]) -> Iterator[AnswerRecord]:
        """The kept answers to these requests. A request's hash stands for everything that determines its answer."""
        needed = {self._places.get(bytes.fromhex(request), -1) for request in requests} - {-1}
        for number in sorted(needed):
            for record in complete_answers(self._logs[number]):
                if record.request in requests:
                    yield record
