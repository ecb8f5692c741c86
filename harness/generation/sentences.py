"""Pairs of sentences: an answer is sampled sentence by sentence, each several times, and the better sentence is continued (SENTINEL)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.core.files import sha256_json
from harness.core.progress import progress
from harness.core.types import Response
from harness.generation.candidates import PromptPart
from harness.generation.pairs import CandidatePair, Judged, pairs_of
from harness.generation.verdicts import VerdictLog, verdict_key
from harness.generation.work import Work
from harness.judging.candidates import Begun, Candidate, Prompt, Verdict, verdicts_of
from harness.serving.base import Backend

STOP = (".", "!", "?")
"""A sentence ends after the first of these, as in SENTINEL; so it also ends in the middle of "3.5"."""
MOST = 32
"""Sentences of an answer, at most: a model that repeats itself would never end."""


@dataclass
class _Begun:
    """An answer under way."""

    prompt: Prompt
    context: str = ""


class SentenceWork(Work):
    """A shard whose pairs are sentences behind a shared context.

    Of the sentences without an error (`PERFECT`), one is drawn (seeded) and becomes context. An answer ends when the model ends it, or
    when no sentence is without an error.
    Source: SENTINEL, Peng et al., ICCV 2025, section 3.2. Difference: the sentence that is continued is drawn among all factual ones;
    SENTINEL prefers one that mentions objects of the context.
    """

    PERFECT = 1.0
    """The score of a sentence without an error."""

    def run(self) -> dict[str, Any]:
        """Sample, judge and pair sentence by sentence; returns what the manifest says of it."""
        sampler = self.request.sampler
        sampler.check_questions(self.parts)
        self._made: dict[Path, list[CandidatePair]] = {}
        self.counts.update({"could not be answered": 0})
        with (
            self.request.judge,
            sampler.running() as engine,
            progress("sampling sentences", len(self.parts)) as advance,
        ):
            for part in self.parts:
                self._made[part.folder] = self._walk(part, engine)
                advance()
        return self._result("")  # no endpoint continues answers, so these are local weights

    def _pairs(self, part: PromptPart, *, count: bool = False) -> Iterator[CandidatePair]:
        """The pairs of a part; counted when they were made."""
        yield from self._made[part.folder]

    def _walk(self, part: PromptPart, engine: Callable[[], Backend]) -> list[CandidatePair]:
        open_ = [_Begun(prompt) for prompt in part.prompts]
        pairs: dict[str, list[CandidatePair]] = {prompt.id: [] for prompt in part.prompts}
        log = VerdictLog(part.folder)
        for step in range(MOST):
            said = self._sentences(part, open_, step, engine)
            if not any(said):
                break
            verdicts = self._verdicts(part, log, [sentence for some in said for sentence in some])
            going = []
            for answer, candidates in zip(open_, said, strict=True):
                judged = [
                    Judged(number, Response("", sentence.text, "stop"), verdicts[sentence.id])
                    for number, sentence in enumerate(candidates)
                    if verdicts[sentence.id].score is not None
                ]
                self.counts["answers"] += len(candidates)
                self.counts["usable"] += len(judged)
                self.counts["not judged"] += len(candidates) - len(judged)
                request = self.request
                pairs[answer.prompt.id] += [
                    replace(pair, whole=False)
                    for pair in pairs_of(
                        answer.prompt, judged, request.pair, request.min_gap, request.sampler.seed, answer.context
                    )
                ]
                if best := [sentence for sentence in judged if sentence.score >= self.PERFECT]:
                    draw = random.Random(f"{request.sampler.seed} {answer.prompt.id} {answer.context}")
                    text = draw.choice(best).response.text
                    going.append(_Begun(answer.prompt, f"{answer.context} {text}".strip()))
            open_ = going
        self.counts["prompts"] += len(part.prompts)
        self.counts["prompts without a pair"] += sum(not some for some in pairs.values())
        return [pair for some in pairs.values() for pair in some]

    def _sentences(
        self, part: PromptPart, open_: Sequence[_Begun], step: int, engine: Callable[[], Backend]
    ) -> list[list[Candidate]]:
        """For each answer the different sentences that the model continues it with; none if it ends the answer."""
        sampler = self.request.sampler
        begun, owners = [], {}
        for place, answer in enumerate(open_):
            image = answer.prompt.image
            for number in range(sampler.sample.samples):
                name = f"{place}#{number}"
                owners[name] = place
                identity = [sampler.seed, answer.prompt.text, image.fingerprint(), answer.context, number]
                seed = int(sha256_json(identity)[:7], 16)
                begun.append(Begun(name, answer.prompt.text, image, answer.context, seed, STOP))
        sentences: list[dict[str, int]] = [{} for _ in open_]
        for name, response in sampler.continued(begun, part.folder / "sentences", engine):
            place = owners[name]
            if response is None or response.refusal is not None:
                self.counts["could not be answered" if response is None else "refused"] += 1
                continue
            sentence = response.text[len(open_[place].context) :].strip()
            if response.finish_reason == "length":
                self.counts["cut off"] += 1
            elif not re.search(r"\w", sentence):  # the model ends the answer
                self.counts["empty"] += 1
            else:
                number = int(name.partition("#")[2])
                sentences[place][sentence] = min(number, sentences[place].get(sentence, number))
        return [
            [
                Candidate(f"{answer.prompt.id}#{step}#{number}", answer.prompt, sentence, answer.context)
                for sentence, number in sorted(some.items(), key=lambda pair: pair[1])
            ]
            for answer, some in zip(open_, sentences, strict=True)
        ]

    def _verdicts(self, part: PromptPart, log: VerdictLog, candidates: Sequence[Candidate]) -> dict[str, Verdict]:
        """The verdict on each sentence; those that are kept are not asked for again."""
        identity, reads = self.request.judge.identity(), self.request.judge.reads_context
        keys = {candidate.id: verdict_key(candidate, identity, reads_context=reads) for candidate in candidates}
        asked: dict[str, Candidate] = {}
        for candidate in candidates:
            if log.get(keys[candidate.id]) is None:
                asked.setdefault(keys[candidate.id], candidate)
        if asked:
            log.add(self._noted(keys, verdicts_of(self.request.judge, list(asked.values()), part.folder)))
        return {name: log.get(key) or Verdict(None, error="not judged") for name, key in keys.items()}
