"""What judged suites share: prompts from official files with their checksums, stored grades of several runs, agreement of votes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from harness.core.files import sha256_file
from harness.judging.base import Judge, JudgeReply, JudgeRequest


class GradesJudge(Judge):
    """Stored replies of one or several runs of a judge, each run a vote."""

    name = "stored reviews"
    reads_prompt = False
    samples = True

    def __init__(self, path: Path, replies: Mapping[str, Sequence[str]], runs: int) -> None:
        super().__init__()
        self._path, self._replies = path, replies
        self.votes = runs

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
        """The stored reply of the vote's run."""
        for request in requests:
            stored = self._replies.get(request.item.id, ())
            text = stored[request.sample] if request.sample < len(stored) else None
            yield JudgeReply(request.item.id, text, None if text is not None else "there is no stored review")

    def provenance(self) -> dict[str, Any]:
        """File, hash and number of runs."""
        return {
            "judge": self.name,
            "file": self._path.name,
            "sha256": sha256_file(self._path),
            "runs": self.votes,
        }


def agreement(values: Sequence[Any]) -> dict[str, float]:
    """Counts of how often a judge's votes about one answer are equal, over all pairs of votes."""
    pairs = list(combinations(values, 2))
    return {"pairs": float(len(pairs)), "agreeing": float(sum(first == second for first, second in pairs))}


def prompt_kind(digest: str, official: str, own: str) -> str:
    """What a variant's name says about a judge's prompt: "" for the official one."""
    return {official: "", own: "own prompt"}.get(digest, f"prompt {digest[:8]}")
