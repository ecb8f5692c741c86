"""MMPR's DropoutNTP: an answer is cut, and continued without the picture; the answer is preferred to what the model makes up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from harness.core.files import sha256_json
from harness.judging.candidates import Begun, Candidate, CandidateJudge, CandidateJudgeSettings, Partner, Verdict


class ContinuationSettings(CandidateJudgeSettings):
    """Where an answer is cut."""

    share: float = Field(0.5, gt=0, lt=1, description="share of an answer's words that is kept and continued")


class ContinuationJudge(CandidateJudge):
    """Score 1 for an answer, 0 for the same answer that was continued without the picture, with the same sampling.

    A continuation that is equal to the answer, empty or cut off at the length limit makes no pair.
    Source: Wang et al. (MMPR), 2024, arXiv 2411.10442, section 3.2, which cuts at half of the tokens; here at half of the words.
    """

    name, summary = "continuation", "cuts an answer and continues it without the picture (DropoutNTP); no judge model"
    source = "MMPR, Wang et al., 2024, arXiv 2411.10442"
    Settings = ContinuationSettings
    settings: ContinuationSettings
    makes_partners = True
    continues = True
    min_gap = 1.0

    def reads_regions(self) -> bool:
        """No picture is looked at."""
        return False

    def judge(self, candidates: Sequence[Candidate], folder: Path) -> Iterator[tuple[str, Verdict]]:
        """Let the sampled model continue every answer without the picture."""
        assert self.continue_answers is not None
        by_id = {candidate.id: candidate for candidate in candidates}
        begun = []
        for candidate in candidates:
            if beginning := beginning_of(candidate.text, self.settings.share):
                question = candidate.prompt.text
                seed = int(sha256_json([question, candidate.prompt.image.fingerprint(), candidate.text])[:7], 16)
                begun.append(Begun(candidate.id, question, None, beginning, seed))
            else:
                yield candidate.id, Verdict(None, error="the answer is too short to be cut")
        for name, made in self.continue_answers(begun, folder / self.name):
            text = by_id[name].text
            if made is None or made.refusal is not None:
                yield name, Verdict(None, error="the continuation was refused")
            elif made.finish_reason == "length":
                yield name, Verdict(None, error="the continuation was cut off")
            elif made.text == text:
                yield name, Verdict(None, error="the continuation is equal to the answer")
            elif made.text == beginning_of(text, self.settings.share):
                yield name, Verdict(None, error="the continuation is empty")
            else:
                why = "continued without the picture"
                yield name, Verdict(1.0, "the model's answer", partner=Partner(made.text, 0.0, why))


def beginning_of(text: str, share: float) -> str:
    """The first `share` of a text's words, rounded down, without the blank that follows; "" if that is no word."""
    words = text.split()
    count = int(len(words) * share)
    end = 0
    for word in words[:count]:
        end = text.index(word, end) + len(word)
    return text[:end]
