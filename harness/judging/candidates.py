"""The contract of judges that score a model's own answers, from which preference pairs are made."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from harness.core.config import StrictModel
from harness.core.errors import shown
from harness.core.plugins import wrong
from harness.core.types import Evidence, ImageRef, Region


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question about one image.

    Attributes:
        id: unique in its set.
        text: the question.
        image: the image.
        regions: known objects of the image, if the data has them.
        source: the data set that it comes from, "" if unknown.
    """

    id: str
    text: str
    image: ImageRef
    regions: tuple[Region, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer that may become part of a pair. `id` is unique in its set."""

    id: str
    prompt: Prompt
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's verdict on one candidate.

    Attributes:
        score: higher is better; comparable among the candidates of one prompt. None: not judged, and never paired.
        why: explanation of the score.
        evidence: the parts of the answer that decided it.
        error: why there is no score. The next command judges the candidate again.
    """

    score: float | None
    why: str = ""
    evidence: tuple[Evidence, ...] = ()
    error: str | None = None


_EXPECTED = "an iterator of (candidate id, Verdict), one per candidate"


class CandidateJudgeSettings(StrictModel):
    """Options of a judge of candidates; subclasses add theirs. All of them can change verdicts."""


class CandidateJudge(ABC):
    """Scores candidates. An entry point in the group `harness.candidate_judges` registers it."""

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    """The publication that it follows."""
    Settings: ClassVar[type[CandidateJudgeSettings]] = CandidateJudgeSettings
    min_gap: ClassVar[float] = 0.0
    """The default of `--min-gap`: two candidates make a pair if their scores differ by at least this, and by more than 0."""

    def __init__(self, settings: CandidateJudgeSettings | None = None) -> None:
        self.settings = settings or self.Settings()

    def __enter__(self) -> Self:
        """Begin judging. The judge may load a model, because no other engine runs while it is entered."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End judging; release everything that was loaded."""
        return

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Check that the judge can work. Called once before anything is generated.

        Raises:
            BadInputError: it cannot (no ground truth for an image, a verifier that sees no pictures, ...).
        """
        return

    @abstractmethod
    def judge(self, candidates: Sequence[Candidate], folder: Path) -> Iterator[tuple[str, Verdict]]:
        """Yield (candidate id, verdict) for each candidate, in any order. Called once for each part of a set.

        Args:
            candidates: the answers; no two with the same prompt and text.
            folder: where the judge may store replies of other models.

        Raises:
            HarnessError: the judge cannot be reached. Earlier verdicts are kept.
        """

    def identity(self) -> dict[str, Any]:
        """Everything that determines the verdicts: they are reused only if this is the same. JSON-able; no secrets."""
        return {"judge": self.name, "settings": self.settings.model_dump(mode="json")}

    def provenance(self) -> dict[str, Any]:
        """Value for the set's manifest: `identity` and the cost of judging. JSON-able; no secrets."""
        return self.identity()


def verdicts_of(judge: CandidateJudge, candidates: Sequence[Candidate], folder: Path) -> Iterator[tuple[str, Verdict]]:
    """`CandidateJudge.judge`, checked: every candidate has one verdict, and a score is a number.

    Raises:
        PluginError: the judge returned something else.
    """
    verdicts, open_ = judge.judge(candidates, folder), {candidate.id for candidate in candidates}
    if not isinstance(verdicts, Iterable):
        raise wrong(judge, "judge", shown(verdicts), _EXPECTED)
    for pair in verdicts:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Verdict) and pair[0] in open_):
            raise wrong(judge, "judge", shown(pair), _EXPECTED)
        name, verdict = pair
        score = verdict.score
        if score is None and not isinstance(verdict.error, str):
            raise wrong(
                judge,
                "judge",
                f"a verdict on {shown(name)} without a score",
                "a score; or None, and then an error text",
            )
        if score is not None and not (isinstance(score, int | float) and math.isfinite(score)):
            raise wrong(judge, "judge", f"the score {shown(score)} for {shown(name)}", "a finite number")
        open_.remove(name)
        yield name, verdict
    if open_:
        raise wrong(judge, "judge", f"no verdict on {len(open_)} of {len(candidates)} candidates", _EXPECTED)
