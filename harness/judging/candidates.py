"""The contract of judges that score a model's own answers, from which preference pairs are made."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from harness.core.config import StrictModel
from harness.core.errors import shown
from harness.core.plugins import wrong
from harness.core.types import Evidence, ImageRef, Region, Response, Span, WeightedSpan
from harness.judging.base import Estimate


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question about one image.

    Attributes:
        id: unique in its set.
        text: the question.
        image: the image.
        regions: known objects of the image, if the data has them.
        source: the data set that it comes from, "" if unknown.
        reference: a good answer to it, if the data has one.
    """

    id: str
    text: str
    image: ImageRef
    regions: tuple[Region, ...] = ()
    source: str = ""
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer that may become part of a pair, or a sentence of one, behind the `context`. `id` is unique in its set."""

    id: str
    prompt: Prompt
    text: str
    context: str = ""


@dataclass(frozen=True, slots=True)
class Partner:
    """A second answer that a judge makes from a candidate; the two are a pair.

    Attributes:
        text: the answer.
        score: compared with the candidate's; the higher one is chosen.
        why: explanation of the score.
        spans: characters of `text` in which it differs from the candidate, ([start, end), ...); None if they are not known.
        candidate_spans: the same, in the candidate.
        weights: weights of characters of `text`, for methods that read them; 1 for the others.
        candidate_weights: the same, in the candidate.
    """

    text: str
    score: float
    why: str = ""
    spans: tuple[Span, ...] | None = None
    candidate_spans: tuple[Span, ...] | None = None
    weights: tuple[WeightedSpan, ...] = ()
    candidate_weights: tuple[WeightedSpan, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's verdict on one candidate.

    Attributes:
        score: higher is better; comparable among the candidates of one prompt. None: not judged, and never paired.
        why: explanation of the score.
        evidence: the parts of the answer that decided it.
        error: why there is no score. The next command judges the candidate again.
        partner: of a judge that makes second answers (`CandidateJudge.makes_partners`), the one that this candidate is paired with.
    """

    score: float | None
    why: str = ""
    evidence: tuple[Evidence, ...] = ()
    error: str | None = None
    partner: Partner | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer that the sampled model shall continue, up to the first of the texts in `stop`. `id` is unique in a call; `image` None: it
    sees no image."""

    id: str
    question: str
    image: ImageRef | None
    beginning: str
    seed: int
    stop: tuple[str, ...] = ()


Continue = Callable[[Sequence[Begun], Path], Iterator[tuple[str, Response | None]]]
"""Continues answers with the sampled model, and stores them in a folder: yields (id, the whole answer, its beginning included), in any
order; None if a request could not be answered."""


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
    makes_partners: ClassVar[bool] = False
    """Whether every verdict with a score names a second answer, with which the candidate is paired; candidates are then not paired with
    one another, and one per prompt is enough."""
    sentences: ClassVar[bool] = False
    """Whether it judges sentences: answers are then sampled sentence by sentence, and a pair is two sentences behind the same context."""
    reads_context: ClassVar[bool] = True
    """Whether a verdict on a sentence can depend on the context that it stands behind. If not, the same sentence about the same image is
    judged once."""
    continue_answers: Continue | None = None
    """Set before `judge` is called if the class has `continues`."""
    continues: ClassVar[bool] = False
    """Whether the judge lets the sampled model continue answers."""

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
            candidates: the answers, or sentences; no two with the same prompt, text and (if the judge reads it) context.
            folder: where the judge may store replies of other models.

        Raises:
            HarnessError: the judge cannot be reached. Earlier verdicts are kept.
        """

    def reads_regions(self) -> bool:
        """Whether the objects of the data (`Prompt.regions`) can change a verdict: a set that was judged by others is then another set.
        A judge that never reads them returns False."""
        return True

    def estimate(self, candidates: Sequence[Candidate]) -> Estimate:
        """The expected cost of judging these candidates, without asking anything. The default: no model is asked for money.

        Args:
            candidates: answers; for those that are not sampled yet, a text of usual length.
        """
        return Estimate(0)

    def identity(self) -> dict[str, Any]:
        """Everything that determines the verdicts: they are reused only if this is the same. JSON-able; no secrets. Called after `check`.
        What is known of a prompt is not part of it. Files and models of this machine that the settings name are in it by their contents."""
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
        if (score is not None and judge.makes_partners) != (verdict.partner is not None):
            got = f"a verdict on {shown(name)} with{'' if verdict.partner else 'out'} a second answer"
            raise wrong(judge, "judge", got, f"as makes_partners={judge.makes_partners} says, with every score")
        open_.remove(name)
        yield name, verdict
    if open_:
        raise wrong(judge, "judge", f"no verdict on {len(open_)} of {len(candidates)} candidates", _EXPECTED)
