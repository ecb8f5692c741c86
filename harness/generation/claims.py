"""RLAIF-V's judge: a language model splits an answer into yes/no questions, a vision-language model answers them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic import Field, field_validator

from benchmarks.yesno import tolerant
from harness.core.endpoint_url import EndpointUrl
from harness.core.errors import BadInputError
from harness.core.types import Item, Response
from harness.generation.vision_model import VisionModel, VisionQuestion
from harness.judging.base import Estimate, JudgeRequest
from harness.judging.candidates import Candidate, CandidateJudge, CandidateJudgeSettings, Prompt, Verdict
from harness.judging.openai import OpenAIJudge
from harness.judging.panel import ask
from harness.judging.replies import spoken
from harness.judging.settings import OpenAIJudgeSettings
from harness.serving.base import Sampling

logger = logging.getLogger(__name__)

SPLIT = """\
Below is what somebody answered to a question about an image. List every statement about the image that the answer makes, as a question \
that can be answered with yes or no by looking at the image, and to which the answer's own statement is "yes". One question for each \
separate fact: an object, a number, a colour, an action, a place. Leave out opinions and anything that no image can show.

Write one question on each line, beginning with "- ", and nothing else. If the answer makes no statement about the image, write NONE.

Question: {question}
Answer: {answer}
"""
ASK = "{question} Please answer yes or no."
YES_NO = ("Yes", "No")
_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+(.*\S)\s*$")
_IF_CHANGED = ("reasoning_effort", "asks", "retry_temperature")
"""Settings of the splitter that are a part of the judge's identity if they are not the defaults."""


class ClaimsSettings(CandidateJudgeSettings):
    """The model that splits answers into claims, and the model that looks at the image."""

    splitter: OpenAIJudgeSettings = Field(
        default_factory=OpenAIJudgeSettings,
        description="the language model behind an OpenAI-compatible endpoint; it sees no image",
    )
    verifier: str = Field(
        "", description="the vision-language model: its name at verifier_url, or a checkpoint of this machine"
    )
    verifier_url: EndpointUrl | None = Field(
        None,
        repr=False,
        description="OpenAI-compatible endpoint of the verifier; None: it runs on this machine, with `backend`",
    )
    backend: str | None = Field(None, description="backend of a local verifier; default: vllm if installed")
    compare: Literal["auto", "probabilities", "words"] = Field(
        "auto",
        description="whether the probabilities of yes and no decide (RLAIF-V), or the verifier's words; auto: the probabilities if the "
        "verifier's backend or endpoint gives them",
    )

    @field_validator("splitter")
    @classmethod
    def _one_vote(cls, splitter: OpenAIJudgeSettings) -> OpenAIJudgeSettings:
        if splitter.votes > 1:
            raise ValueError(
                f"judge.splitter.votes must be 1, not {splitter.votes}: an answer is split into claims once"
            )
        return splitter


class ClaimsJudge(CandidateJudge):
    """Score = minus the number of claims that the verifier denies (RLAIF-V, Yu et al., CVPR 2025, section 3.2).

    A claim is accepted if p(yes) > p(no), or if the verifier gives no log-probabilities, by the words of its answer.
    If the verdict on a claim cannot be read or was refused, its answer is not judged; such answers are counted and never paired.
    """

    name, summary = "claims", "an LLM splits answers into claims, a vision-language model checks each (RLAIF-V)"
    source = "RLAIF-V, Yu et al., CVPR 2025"
    Settings = ClaimsSettings
    settings: ClaimsSettings
    min_gap = 1.0

    def __init__(self, settings: CandidateJudgeSettings | None = None) -> None:
        super().__init__(settings)
        self._splitter = OpenAIJudge(self.settings.splitter)
        self._choices: tuple[str, ...] = ()
        """What the probabilities of are compared; (): the words decide. Known after `check`."""
        named = self.settings
        self._verifier = VisionModel(self.name, "verifier", named.verifier, named.verifier_url, named.backend)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Check that the verifier is available; an endpoint is first asked about a small picture, and for log-probabilities.

        Raises:
            BadInputError: it is not, or gives no log-probabilities although they were asked for.
        """
        if self.settings.compare == "words":
            self._verifier.check()
            return
        lacking = self._verifier.check(YES_NO)
        if lacking and self.settings.compare == "probabilities":
            raise BadInputError(
                f"the probabilities of yes and no cannot be compared: {lacking}",
                where=f"judge.verifier={self.settings.verifier}",
                remedy="--set judge.compare=words, or another verifier",
            )
        if lacking:
            logger.warning(f"the verifier's words decide, not the probabilities of yes and no: {lacking}")
        self._choices = () if lacking else YES_NO

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the verifier, which is loaded when the first claim is checked."""
        self._verifier.close()

    def judge(self, candidates: Sequence[Candidate], folder: Path) -> Iterator[tuple[str, Verdict]]:
        """Split all answers, again if a list cannot be read, then ask about all claims; every reply is kept."""
        claims: dict[str, list[str]] = {}
        by_id = {candidate.id: candidate for candidate in candidates}
        requests = [_to_split(candidate) for candidate in candidates]
        for name, [vote] in ask(self._splitter, requests, claims_in, whole=True).items():
            if vote.value is None:
                problem = self._cut_off() if vote.cut_off else vote.reason
                yield name, Verdict(None, error=f"not split into claims: {problem}")
            elif not vote.value:
                yield name, Verdict(None, error="the answer makes no claim")
            else:
                claims[name] = vote.value
        answers = self._answers({name: (by_id[name].prompt, listed) for name, listed in claims.items()}, folder)
        for name, listed in claims.items():
            yield name, _verdict(listed, [answers.get((name, claim)) for claim in listed])

    def _cut_off(self) -> str:
        limit = self._splitter.most_tokens
        return f"the list was cut off after {limit} tokens: --set judge.splitter.max_tokens={4 * limit}"

    def _answers(self, claims: dict[str, tuple[Prompt, list[str]]], folder: Path) -> dict[tuple[str, str], str | None]:
        """(candidate, claim) -> "yes", "no", or None if the verifier's answer is neither."""
        sampling = Sampling(max_new_tokens=16)
        questions = {
            (name, claim): VisionQuestion(ASK.format(question=claim), prompt.image, sampling, choices=self._choices)
            for name, (prompt, listed) in claims.items()
            for claim in listed
        }
        said = self._verifier.answers(questions, folder / "claims")
        return {
            (name, claim): None if answer is None else tolerant(answer.text, claim)
            for (name, claim), answer in said.items()
        }

    def estimate(self, candidates: Sequence[Candidate]) -> Estimate:
        """The splitter's cost. How many claims it finds, and the verifier checks, is not known before."""
        self._verifier.check_named()
        return self._splitter.estimate([_to_split(candidate) for candidate in candidates])

    def identity(self) -> dict[str, Any]:
        """Both models, a verifier of this machine by its weights, and both prompts; the endpoints are not part of it."""
        splitter = self.settings.splitter
        # Only what differs from the default, so that the identity is as it was before these settings were a part of it.
        changed = {name: getattr(splitter, name) for name in _IF_CHANGED if getattr(splitter, name) != _default(name)}
        return {
            "judge": self.name,
            "splitter": {
                "model": splitter.model,
                "temperature": splitter.temperature,
                "max_tokens": splitter.max_tokens,
            }
            | changed,
            "verifier": self.settings.verifier,
            "compare": "probabilities" if self._choices else "words",
            "prompts": [SPLIT, ASK],
        } | self._verifier.identity()

    def reads_regions(self) -> bool:
        """The verifier looks at the picture."""
        return False

    def provenance(self) -> dict[str, Any]:
        """What was asked and spent."""
        return self.identity() | {"split_by": self._splitter.provenance(), "took": dict(self._verifier.took)}


def _default(setting: str) -> Any:
    """The default of a setting of the splitter."""
    return OpenAIJudgeSettings.model_fields[setting].default


def claims_in(text: str) -> list[str] | None:
    """The questions of a splitter's reply, each once, without the reasoning before them; [] if there are none.

    None if it cannot be read: it has no list, or a line of the list is no question. Without that line, a claim would go unchecked.
    """
    text = spoken(text)
    if text.strip().strip(".").upper() == "NONE":
        return []
    listed = [match.group(1) for line in text.splitlines() if (match := _LINE.match(line))]
    if not all(question.endswith("?") for question in listed):
        return None
    return list(dict.fromkeys(listed)) or None


def _to_split(candidate: Candidate) -> JudgeRequest:
    item = Item(candidate.id, candidate.prompt.text, candidate.prompt.image, candidate.prompt.id)
    prompt = SPLIT.format(question=candidate.prompt.text, answer=candidate.text)
    return JudgeRequest(item, Response(candidate.id, candidate.text), prompt)


def _verdict(claims: Sequence[str], answers: Sequence[str | None]) -> Verdict:
    if unread := sum(answer is None for answer in answers):
        return Verdict(None, error=f"{unread} of {len(claims)} claims were not judged")
    denied = [claim for claim, answer in zip(claims, answers, strict=True) if answer == "no"]
    why = f"{len(denied)} of {len(claims)} claims denied" + (f": {'; '.join(denied)}" if denied else "")
    return Verdict(-float(len(denied)), why)
