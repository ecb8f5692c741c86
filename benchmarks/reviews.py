"""Stored replies of a judge, used instead of a judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.files import sha256_file
from harness.judging.base import Judge, JudgeReply, JudgeRequest


class ReviewsJudge(Judge):
    """A judge that returns stored reviews."""

    name = "stored reviews"
    reads_prompt = False

    def __init__(self, path: Path, reviews: Mapping[str, str]) -> None:
        super().__init__()
        self._path, self._reviews = path, reviews

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        """The review of each item."""
        for request in requests:
            text = self._reviews.get(request.item.id)
            yield JudgeReply(request.item.id, text, None if text is not None else "there is no stored review")

    def provenance(self) -> dict[str, Any]:
        """File and hash."""
        return {"judge": self.name, "file": self._path.name, "sha256": sha256_file(self._path)}
