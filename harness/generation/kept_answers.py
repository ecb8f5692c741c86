"""Answers of another set of pairs to the same requests, and verdicts of the same judge on them, which need not be made again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path

from harness.core.errors import BadInputError
from harness.evaluation.responses import LOG, complete_answers
from harness.generation.verdicts import complete_verdicts
from harness.judging.candidates import Verdict
from harness.records.answer_files import AnswerRecord

CANDIDATES = "candidates"
"""Folder of a set with the logs of its answers and verdicts."""


class KeptAnswers:
    """The whole answers that a set has, and the verdicts on them; another process may be adding to them."""

    def __init__(self, folder: Path) -> None:
        """Find the logs.

        Args:
            folder: of a set that `harness data generate` made, complete or not.

        Raises:
            BadInputError: it has no answers.
        """
        self.folder = folder
        self._parts = sorted(log.parent for log in (folder / CANDIDATES).glob(f"*/{LOG}"))
        if not self._parts:
            raise BadInputError(
                "no answers of this set are kept here",
                where=f"--answers-of {folder}",
                remedy="give the folder that `harness data generate` wrote to; it has a folder 'candidates', which `push` leaves out",
            )

    @cached_property
    def _places(self) -> dict[bytes, int]:
        """Hash of a request or of what was judged -> number of the part that has it; in bytes, because a set may have millions."""
        return {
            bytes.fromhex(name): number
            for number, part in enumerate(self._parts)
            for name in chain(
                (record.request for record in complete_answers(part)), (key for key, _ in complete_verdicts(part))
            )
        }

    def _parts_of(self, names: Collection[str]) -> list[Path]:
        numbers = {self._places.get(bytes.fromhex(name), -1) for name in names} - {-1}
        return [self._parts[number] for number in sorted(numbers)]

    def answers(self, requests: Collection[str]) -> Iterator[AnswerRecord]:
        """The kept answers to these requests. A request's hash stands for everything that determines its answer."""
        for part in self._parts_of(requests):
            yield from (record for record in complete_answers(part) if record.request in requests)

    def verdicts(self, keys: Collection[str]) -> Iterator[tuple[str, Verdict]]:
        """(key, verdict) of the kept verdicts with these keys (`verdict_key`), which stand for everything that determines a verdict."""
        for part in self._parts_of(keys):
            yield from (kept for kept in complete_verdicts(part) if kept[0] in keys)
