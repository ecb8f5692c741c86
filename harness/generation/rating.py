"""A vision-language model as a judge that looks at the picture and gives an answer a number."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import Field

from benchmarks.ratings import rating_on_scale
from harness.core.endpoint_url import EndpointUrl
from harness.generation.vision_model import VisionModel, VisionQuestion
from harness.judging.base import Estimate
from harness.judging.candidates import Candidate, CandidateJudge, CandidateJudgeSettings, Prompt, Verdict
from harness.judging.prices import tokens_of
from harness.judging.replies import UnreadableError, spoken
from harness.serving.base import Sampling

RATE = """\
Somebody was asked a question about this image. Rate the answer from 0 to {most}. What counts first is whether everything that it says can \
be seen in the image: each object, number, colour, action or place that is not there costs points. What counts second is whether it \
answers the question completely. Its length and its style do not count.

Question: {question}
Answer: {answer}

First name what is wrong or missing, in one or two sentences. Then write a last line of the form "Rating: N".
"""
_RATING_LINE = re.compile(r"\brating\W{0,6}\d", re.IGNORECASE)
PARSER = 2
"""Version of the reader of ratings, a part of the judge's identity: version 1 read "Rating (0-10): 8" as 0."""


class LookingSettings(CandidateJudgeSettings):
    """The model that looks at the image."""

    model: str = Field(
        "", description="the vision-language model: its name at model_url, or a checkpoint of this machine"
    )
    model_url: EndpointUrl | None = Field(
        None,
        repr=False,
        description="OpenAI-compatible endpoint of the model; None: it runs on this machine, with `backend`",
    )
    backend: str | None = Field(None, description="backend of a local model; default: vllm if installed")
    max_tokens: int = Field(1024, ge=1, description="limit of a reply, reasoning included")
    asks: int = Field(3, ge=1, description="requests per answer if replies cannot be parsed")


class LookingJudge(CandidateJudge):
    """A judge that asks one vision-language model about each candidate, again if its reply cannot be parsed."""

    settings: LookingSettings

    def __init__(self, settings: CandidateJudgeSettings | None = None) -> None:
        super().__init__(settings)
        named = self.settings
        self._model = VisionModel(self.name, "model", named.model, named.model_url, named.backend)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Check that the model is available; an endpoint is first asked about a small picture."""
        self._model.check()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the model, which is loaded when the first answer is judged."""
        self._model.close()

    @abstractmethod
    def prompt(self, candidate: Candidate) -> str:
        """What the model is asked about a candidate."""

    @abstractmethod
    def read(self, candidate: Candidate, reply: str) -> Verdict:
        """The verdict in a reply.

        Raises:
            UnreadableError: the reply cannot be parsed; the model is asked again.
        """

    def judge(self, candidates: Sequence[Candidate], folder: Path) -> Iterator[tuple[str, Verdict]]:
        """Ask about all candidates; the first request is greedy, further ones are sampled."""
        open_ = {candidate.id: candidate for candidate in candidates}
        for attempt in range(self.settings.asks):
            sampling = Sampling(
                temperature=0.7 if attempt else 0.0, seed=attempt, max_new_tokens=self.settings.max_tokens
            )
            questions = {
                name: VisionQuestion(self.prompt(candidate), candidate.prompt.image, sampling)
                for name, candidate in open_.items()
            }
            for name, reply in self._model.answers(questions, folder / self.name).items():
                if reply is None:
                    yield name, Verdict(None, error="the model declined to judge the answer, or said nothing")
                    del open_[name]
                    continue
                try:
                    if reply.finish_reason == "length":  # what is there may end in the middle of a number or a sentence
                        raise UnreadableError(self._cut_off)
                    verdict = self.read(open_[name], spoken(reply.text).strip())
                except UnreadableError as error:
                    if attempt < self.settings.asks - 1:
                        continue
                    verdict = Verdict(None, error=f"the reply cannot be parsed: {error}")
                yield name, verdict
                del open_[name]
            if not open_:
                return

    @property
    def _cut_off(self) -> str:
        limit = self.settings.max_tokens
        return f"it was cut off after {limit} tokens (reasoning counts): --set judge.max_tokens={4 * limit}"

    def estimate(self, candidates: Sequence[Candidate]) -> Estimate:
        """One request for each candidate; tokens of the texts, because those of a picture depend on the model, and so does the price."""
        self._model.check_named()
        prompt_tokens = sum(tokens_of(self.prompt(candidate)) for candidate in candidates)
        return Estimate(len(candidates), 0, prompt_tokens, len(candidates) * self.settings.max_tokens)

    def identity(self) -> dict[str, Any]:
        """The model, by its weights if it runs on this machine, and the prompt; the endpoint is not part of it."""
        kept = self.settings.model_dump(mode="json", exclude={"model_url", "backend"})
        return {"judge": self.name, "settings": kept, "prompt": self._words()} | self._model.identity()

    def reads_regions(self) -> bool:
        """The model looks at the picture."""
        return False

    @abstractmethod
    def _words(self) -> str:
        """The prompt without a candidate, for the judge's identity."""

    def provenance(self) -> dict[str, Any]:
        """What was asked."""
        return self.identity() | {"took": dict(self._model.took)}


class RatingSettings(LookingSettings):
    """The model that looks at the image, and its scale."""

    most: int = Field(10, ge=1, le=100, description="the best rating; the worst is 0")


class RatingJudge(LookingJudge):
    """Score = the rating."""

    name, summary = "rating", "a vision-language model rates each answer"
    source = "ours"
    Settings = RatingSettings
    settings: RatingSettings
    min_gap = 1.0

    def prompt(self, candidate: Candidate) -> str:
        """See `RATE`."""
        return RATE.format(most=self.settings.most, question=candidate.prompt.text, answer=candidate.text)

    def read(self, candidate: Candidate, reply: str) -> Verdict:
        """The rating, as `rating_on_scale` reads it; the lines without it are the explanation."""
        rating = rating_on_scale(reply, self.settings.most)
        why = " ".join(line for line in reply.splitlines() if not _RATING_LINE.search(line)).strip()
        return Verdict(rating, why or reply)

    def identity(self) -> dict[str, Any]:
        """The model, the prompt, and the version of the reader of ratings."""
        return super().identity() | {"parser": PARSER}

    def _words(self) -> str:
        return RATE
