"""One shard of a set of generated pairs: answers are sampled, judged and paired, part by part."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aligners.preferences import DataOptions
from aligners.preferences.overlap import EvaluationSet
from aligners.preferences.set_folder import CONFIG, MANIFEST, UNFINISHED, SetShard, parts_and_manifests
from harness.core.disk import make_folder
from harness.core.errors import HarnessError
from harness.core.progress import progress
from harness.core.reading import read_json
from harness.core.removal import move, remove
from harness.evaluation.responses import ResponseLog
from harness.generation.candidates import CandidateSampler, PromptPart
from harness.generation.kept_answers import CANDIDATES, KeptAnswers
from harness.generation.pairs import CandidatePair, Judged, balancing_ratio, is_balanced, pairs_of, usable
from harness.generation.records import PairSetConfig
from harness.generation.settings import PairSettings
from harness.generation.table import row_of, write_part
from harness.generation.verdicts import VerdictLog, verdict_key
from harness.judging.candidates import Candidate, CandidateJudge, Prompt, Verdict, verdicts_of

logger = logging.getLogger(__name__)

REASONS = 20
"""Number of reasons for unjudged answers that a manifest lists, the most frequent first."""


@dataclass(frozen=True)
class GenerateRequest:
    """What the user asked for.

    Attributes:
        sampler: the checkpoint and the sampling.
        prompts: see `read_prompts`.
        judge: scores the answers.
        pair: which answers make a pair.
        output: the set's folder.
        limit: use a seeded sample of this many prompts.
        shard: process only this slice of the prompts.
        part_size: prompts per part.
        allow_download: see `read_prompts`.
        options: see `read_prompts`.
        on_error: see `read_prompts`.
        held_out: suites whose images are left out of the prompts.
        overwrite: a set with other settings in the folder is replaced when this one is complete.
        ray: number of Ray Data workers that sample the answers; None: this process samples them.
        answers_of: folder of another set, whose answers to the same requests are not sampled again, and whose verdicts by the same judge
            are not asked for again.
    """

    sampler: CandidateSampler
    prompts: str
    judge: CandidateJudge
    pair: PairSettings
    output: Path
    limit: int | None = None
    shard: SetShard = field(default_factory=SetShard)
    part_size: int = 256
    allow_download: bool = False
    options: DataOptions = field(default_factory=DataOptions)
    held_out: Sequence[EvaluationSet] = ()
    overwrite: bool = False
    ray: int | None = None
    answers_of: Path | None = None
    on_error: Literal["fail", "skip"] = "fail"

    @functools.cached_property
    def kept(self) -> KeptAnswers | None:
        """The answers of the other set.

        Raises:
            BadInputError: it has none.
        """
        return None if self.answers_of is None else KeptAnswers(self.answers_of)

    @property
    def min_gap(self) -> float:
        """The smallest difference of scores that makes a pair."""
        return self.judge.min_gap if self.pair.min_gap is None else self.pair.min_gap


def stem_of(request: GenerateRequest) -> str:
    """Beginning of the names of a shard's parts."""
    return f"{request.shard.name}-part" if request.shard.name else "part"


def parts_of(request: GenerateRequest, prompts: Sequence[Prompt]) -> list[PromptPart]:
    """A shard's prompts in parts, each with the folder of its logs."""
    folder, size = request.output / CANDIDATES, request.part_size
    return [
        PromptPart(folder / f"{stem_of(request)}-{number:05d}", prompts[start : start + size])
        for number, start in enumerate(range(0, len(prompts), size))
    ]


class Work:
    """One shard in progress: its parts go through the three steps one after the other, so that only one part is in memory."""

    def __init__(self, request: GenerateRequest, config: PairSetConfig, prompts: Sequence[Prompt]) -> None:
        self.request, self.config = request, config
        self.stem, self.parts = stem_of(request), parts_of(request, prompts)
        for part in self.parts:
            make_folder(part.folder)
        self.counts: Counter[str] = Counter()
        self.unjudged: Counter[str] = Counter()

    def run(self) -> dict[str, Any]:
        """Sample, judge, pair; returns what the manifest says of it."""
        sampler, judge = self.request.sampler, self.request.judge
        if self.request.kept is not None:
            self._take_over(self.request.kept)
        with ExitStack() as serving:
            refused = self._sample(serving)
            answered_by = sampler.answered_by(self.parts)
            self.counts["could not be answered"] += len(refused)
            if not judge.continues:
                serving.close()  # the judge may need the memory
            self._judge()
        return self._result(answered_by)

    def _sample(self, serving: ExitStack) -> dict[str, str]:
        """Ask for all answers that are not kept; returns request id -> why it could not be answered. The engine runs until `serving` is
        closed: a judge that lets the model continue its answers asks it, too."""
        sampler, judge = self.request.sampler, self.request.judge
        if self.request.ray is not None:
            from harness.generation.through_ray import sample_through_ray

            return sample_through_ray(sampler, self.parts, self.request.ray)
        engine = serving.enter_context(sampler.running(prepare=sampler.is_open(self.parts)))
        if judge.continues:
            judge.continue_answers = functools.partial(sampler.continued, engine=engine)
        return sampler.run(self.parts, engine)

    def _take_over(self, kept: KeptAnswers) -> None:
        """Copy the answers that another set has to the logs."""
        sampler, taken = self.request.sampler, 0
        for part in self.parts:
            with ResponseLog(part.folder) as log:
                missing = {
                    request.id: prompt.id
                    for prompt in part.prompts
                    for request in sampler.requests(prompt)
                    if log.get(prompt.id, request.id) is None
                }
                for record in kept.answers(missing):
                    log.put(record.model_copy(update={"item": missing[record.request]}))
                    taken += 1
        total = sum(len(part.prompts) for part in self.parts) * sampler.sample.samples
        logger.info(f"{taken:,} of {total:,} answers are those of {kept.folder}")
        if not taken:
            self._say_why_none(kept.folder)

    def _say_why_none(self, other: Path) -> None:
        """Warn of answers to other requests; none may also be missing, because this set has all."""
        mine = self.config.written()
        theirs = read_json(other / CONFIG, "config of a set of pairs")
        names = ("model", "template", "backend", "prompts", "sampling", "seed")
        if differing := [name for name in names if theirs.get(name) != mine[name]]:
            logger.warning(f"no answer of {other} is to the same request: the sets differ in {', '.join(differing)}")

    def _result(self, answered_by: str) -> dict[str, Any]:
        """Write the pairs; returns what the manifest says."""
        lengths = [pair.words for part in self.parts for pair in self._pairs(part, count=True)]
        if not lengths:
            raise self._nothing()
        ratio = balancing_ratio(lengths) if self.request.pair.length_balance else 0.0
        files = self._write(ratio)
        kept = [words for words in lengths if is_balanced(words, ratio)]
        return {
            "shard": [self.request.shard.number, self.request.shard.count],
            "answered_by": answered_by,
            "pairs": len(kept),
            "counts": dict(self.counts),
            "not_judged": dict(self.unjudged.most_common(REASONS)),
            "length_balance": {
                "ratio": ratio,
                "left_out": len(lengths) - len(kept),
                "mean_words": [round(sum(side) / len(kept), 2) for side in zip(*kept, strict=True)],
            },
            "judged_by": self.request.judge.provenance(),
            "files": files,
        }

    def _judge(self) -> None:
        """Judge every usable answer once; verdicts are written part by part."""
        judge, identity = self.request.judge, self.request.judge.identity()
        with judge, progress("judging answers", sum(len(part.prompts) for part in self.parts)) as advance:
            for part in self.parts:
                log = VerdictLog(part.folder)
                open_: dict[str, Candidate] = {}
                for candidate in self._candidates(part):
                    key = verdict_key(candidate, identity)
                    if log.get(key) is None:
                        open_.setdefault(key, candidate)
                if open_ and self.request.kept is not None:
                    log.add(self.request.kept.verdicts(open_))
                    open_ = {key: candidate for key, candidate in open_.items() if log.get(key) is None}
                if open_:
                    by_id = {candidate.id: key for key, candidate in open_.items()}
                    asked = list(open_.values())
                    log.add(self._noted(by_id, verdicts_of(judge, asked, part.folder)))
                advance(len(part.prompts))

    def _noted(self, keys: Mapping[str, str], verdicts: Iterable[tuple[str, Verdict]]) -> Iterator[tuple[str, Verdict]]:
        """Yield (key, verdict), and count the reasons for missing scores."""
        for name, verdict in verdicts:
            if verdict.error is not None:
                self.unjudged[verdict.error] += 1
            yield keys[name], verdict

    def _candidates(self, part: PromptPart) -> Iterator[Candidate]:
        unjudged = Verdict(0.0)
        for prompt, answers in self.request.sampler.answers(part):
            judged = [Judged(number, response, unjudged) for number, response in answers]
            for answer in usable(judged, Counter()):
                yield Candidate(f"{prompt.id}#{answer.number}", prompt, answer.response.text.strip())

    def _pairs(self, part: PromptPart, *, count: bool = False) -> Iterator[CandidatePair]:
        """The pairs of a part, before lengths are balanced."""
        request, identity = self.request, self.request.judge.identity()
        log = VerdictLog(part.folder)
        counts: Counter[str] = Counter()
        for prompt, answers in request.sampler.answers(part):
            judged = []
            for number, response in answers:
                candidate = Candidate("", prompt, response.text.strip())
                verdict = log.get(verdict_key(candidate, identity)) or Verdict(None, error="not judged")
                judged.append(Judged(number, response, verdict))
            good = usable(judged, counts)
            pairs = pairs_of(prompt, good, request.pair, request.min_gap, request.sampler.seed)
            counts.update(prompts=1, answers=len(answers), usable=len(good))
            if not pairs:
                counts["prompts without a pair"] += 1
                if len(good) > 1 and len({answer.score for answer in good}) == 1:
                    counts["prompts with equal scores only"] += 1
            yield from pairs
        if count:
            self.counts.update(counts)

    def _nothing(self) -> HarnessError:
        counts = self.counts
        reasons = ("could not be answered", "refused", "empty", "cut off", "not judged", "repeated")
        said = ", ".join(f"{counts[name]:,} {name}" for name in reasons if counts[name])
        return HarnessError(
            f"no pair could be made of {counts['answers']:,} answers to {counts['prompts']:,} prompts: "
            f"{said or 'all can be used'}; {counts['prompts with equal scores only']:,} prompts have equal scores only",
            where=str(self.request.output),
            remedy="raise --samples or --temperature, lower --min-gap, or take another --judge; answers and verdicts are kept",
        )

    def _write(self, ratio: float) -> list[dict[str, Any]]:
        """Write the parts under temporary names first, so that an earlier set stays complete until this one is."""
        folder, judge = self.request.output, self.request.judge.name
        files = []
        for number, part in enumerate(self.parts):
            path = folder / f"{self.stem}-{number:05d}.parquet"
            rows = (
                row_of(pair, judge, self.request.sampler.target.model)
                for pair in self._pairs(part)
                if is_balanced(pair.words, ratio)
            )
            count = write_part(path.with_name(path.name + UNFINISHED), rows)
            files.append({"name": path.name, "rows": count})
        names = [str(file["name"]) for file in files]
        self._remove_replaced({f"{name}{UNFINISHED}" for name in names})
        for name in names:
            move(folder / f"{name}{UNFINISHED}", folder / name, within=folder)
        return files

    def _remove_replaced(self, new: Collection[str]) -> None:
        """Remove the manifests and parts that the new parts replace: this shard's, or all if the set is written as a whole, because the
        one before may have had shards."""
        folder, shard = self.request.output, self.request.shard
        mine = (MANIFEST, shard.manifest)
        for old in parts_and_manifests(folder):
            replaced = shard.count == 1 or old.name in mine or old.name.startswith(f"{self.stem}-")
            if replaced and old.name not in new:
                remove(old, within=folder)
