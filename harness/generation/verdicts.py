"""The log of verdicts: append-only JSON lines, reused only if judge, prompt, image and answer are the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.core.files import dump_row, naming, sha256_json, whole_lines
from harness.core.reading import parse_line
from harness.core.record import check
from harness.core.types import Span, WeightedSpan
from harness.generation.records import PartnerRow, VerdictRow
from harness.judging.candidates import Candidate, Partner, Prompt, Verdict

VERDICTS = "verdicts.jsonl"


def verdict_key(candidate: Candidate, judge: Any, *, reads_context: bool = True) -> str:
    """Hash of everything that determines a verdict: the judge's identity, question, image with what is known of it, and answer.

    Args:
        candidate: the answer; or a sentence, whose context is hashed, too.
        judge: the judge's identity.
        reads_context: see `CandidateJudge.reads_context`; False leaves the context out.
    """
    prompt = candidate.prompt
    known = [objects_of(prompt), prompt.reference]
    # Without a context, the key is that of earlier versions, which left contexts out.
    context = [candidate.context] if reads_context and candidate.context else []
    return sha256_json([judge, prompt.text, prompt.image.fingerprint(), known, candidate.text, *context])


def objects_of(prompt: Prompt) -> list[Any]:
    """The known objects of a prompt's image, [label, box] each, for hashes."""
    return [[region.label, list(region.box)] for region in prompt.regions]


def complete_verdicts(folder: Path) -> Iterator[tuple[str, Verdict]]:
    """(key, verdict) of every complete record of a part's log that another process may be writing."""
    path = folder / VERDICTS
    data = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        yield _verdict(line, number, path)


class VerdictLog:
    """The verdicts of one part. An incomplete last line, left by a kill, is removed. The caller holds the set's lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / VERDICTS
        lines = enumerate(whole_lines(self.path), 1)
        self._verdicts = dict(_verdict(line, number, self.path) for number, line in lines)

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
                row = VerdictRow(key=key, score=verdict.score, why=verdict.why, partner=_row(verdict.partner))
                stream.write(dump_row(row.written()) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _verdict(line: bytes, number: int, path: Path) -> tuple[str, Verdict]:
    row = parse_line(line, number, "verdicts", path)
    kept = check(VerdictRow, row, "verdict", f"{path}:{number}")
    return kept.key, Verdict(kept.score, kept.why, partner=None if kept.partner is None else _partner(kept.partner))


def _row(partner: Partner | None) -> PartnerRow | None:
    if partner is None:
        return None
    return PartnerRow(
        text=partner.text,
        score=partner.score,
        why=partner.why,
        spans=_lists(partner.spans),
        candidate_spans=_lists(partner.candidate_spans),
        weights=[list(span) for span in partner.weights],
        candidate_weights=[list(span) for span in partner.candidate_weights],
    )


def _lists(spans: Sequence[Span] | None) -> list[list[int]] | None:
    return None if spans is None else [list(span) for span in spans]


def _partner(row: PartnerRow) -> Partner:
    def spans(given: list[list[int]] | None) -> tuple[Span, ...] | None:
        return None if given is None else tuple((start, end) for start, end in given)

    def weights(given: list[list[float]]) -> tuple[WeightedSpan, ...]:
        return tuple((int(start), int(end), weight) for start, end, weight in given)

    spanned = spans(row.spans), spans(row.candidate_spans)
    return Partner(row.text, row.score, row.why, *spanned, weights(row.weights), weights(row.candidate_weights))
