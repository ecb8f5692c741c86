"""The log of verdicts: append-only JSON lines, reused only if judge, prompt, image and answer are the same."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.core.files import dump_row, naming, sha256_json, whole_lines
from harness.core.reading import parse_line
from harness.core.record import check
from harness.generation.records import VerdictRow
from harness.judging.candidates import Candidate, Verdict


def verdict_key(candidate: Candidate, judge: Any) -> str:
    """Hash of everything that determines a verdict: the judge's identity, question, image with its known objects, and answer."""
    prompt = candidate.prompt
    objects = [[region.label, list(region.box)] for region in prompt.regions]
    return sha256_json([judge, prompt.text, prompt.image.fingerprint(), objects, candidate.text])


class VerdictLog:
    """The verdicts of one part. An incomplete last line, left by a kill, is removed. The caller holds the set's lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "verdicts.jsonl"
        self._verdicts: dict[str, Verdict] = {}
        for number, line in enumerate(whole_lines(self.path), 1):
            row = parse_line(line, number, "verdicts", self.path)
            kept = check(VerdictRow, row, "verdict", f"{self.path}:{number}")
            self._verdicts[kept.key] = Verdict(kept.score, kept.why)

    def get(self, key: str) -> Verdict | None:
        """The kept verdict."""
        return self._verdicts.get(key)

    def add(self, rows: Iterable[tuple[str, Verdict]]) -> None:
        """Store verdicts that have a score; they are on disk when this returns."""
        with naming(self.path), self.path.open("a", encoding="utf-8") as stream:
            for key, verdict in rows:
                self._verdicts[key] = verdict
                if verdict.score is None:
                    continue
                stream.write(dump_row(VerdictRow(key=key, score=verdict.score, why=verdict.why).written()) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
