"""A set of preference pairs on disk, made of a model's own answers: sampled, judged, paired.

config.json                             what determines the set
candidates/part-00000/responses.jsonl   every answer; none is generated twice
candidates/part-00000/verdicts.jsonl    every verdict
part-00000.parquet ...                  the pairs; with shards: shard-1-of-4-part-00000.parquet ...
manifest.json                           counts, written last; a shard's is shard-1-of-4.json
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aligners.preferences import DataOptions
from aligners.preferences.overlap import EvaluationSet, overlaps
from aligners.preferences.set_folder import (
    CONFIG,
    MANIFEST,
    UNFINISHED,
    SetShard,
    changed_keys,
    join_shards,
    read_manifest,
    same_set,
)
from harness.core.disk import make_folder
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import sha256_json, write_json
from harness.core.locks import writing
from harness.core.progress import progress
from harness.core.removal import move, remove
from harness.generation.candidates import Part, Sampler
from harness.generation.pairs import Judged, Pair, balancing_ratio, is_balanced, pairs_of, usable
from harness.generation.prompts import read_prompts
from harness.generation.records import LengthBalance, PairSetConfig, PairSetManifest, Prompts, SampledModel
from harness.generation.settings import PairSettings
from harness.generation.table import FORMAT, row_of, write_part
from harness.generation.verdicts import VerdictLog, verdict_key
from harness.judging.candidates import Candidate, CandidateJudge, Prompt, Verdict, verdicts_of

logger = logging.getLogger(__name__)

KIND = "preference_pairs"
_CANDIDATES = "candidates"
_REASONS = 20
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
        held_out: suites whose images are left out of the prompts.
        overwrite: a set with other settings in the folder is replaced when this one is complete.
    """

    sampler: Sampler
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

    @property
    def min_gap(self) -> float:
        """The smallest difference of scores that makes a pair."""
        return self.judge.min_gap if self.pair.min_gap is None else self.pair.min_gap


def generate(request: GenerateRequest) -> PairSetManifest:
    """Make the set, or one shard of it; finished parts are kept.

    Returns:
        The manifest of the shard.

    Raises:
        BadInputError: prompts, judge or folder are unusable, raised before anything is generated; or another process works on this shard.
        HarnessError: the model or the judge cannot be reached (answers so far are kept), or no pair could be made.
    """
    seed, shard = request.sampler.seed, request.shard
    if request.sampler.sample.samples < 2 and not request.judge.makes_partners:
        raise BadInputError(
            f"the judge '{request.judge.name}' compares a prompt's answers, and one is not enough",
            remedy="sample.samples must be at least 2: --samples 10",
        )
    if request.judge.continues:
        if not request.sampler.backend.continues:
            raise BadInputError(
                f"the judge '{request.judge.name}' lets the model continue an answer, which the backend "
                f"'{request.sampler.backend.name}' cannot do",
                remedy="serve the model on this machine (--backend vllm or transformers), or take another --judge",
            )
        request.judge.continue_answers = request.sampler.continued
    every = read_prompts(
        request.prompts,
        limit=request.limit,
        seed=seed,
        allow_download=request.allow_download,
        options=request.options,
    )
    prompts, shared = _without_held_out(every, request.held_out)
    mine = shard.of(prompts)
    if not mine:
        raise BadInputError(f"{len(prompts)} prompts are fewer than {shard.count} shards")
    request.judge.check(mine)
    make_folder(request.output)
    what = "this set" + (f"'s shard {shard.number}" if shard.name else "")
    with writing(request.output / f".{shard.name or 'set'}.lock", what, request.output):
        config = _config(request, prompts)
        if (kept := _kept(request, config)) is not None:
            return kept
        write_json(request.output / CONFIG, config.written())
        started = time.perf_counter()
        result = _Work(request, config, mine).run()
        seconds = round(time.perf_counter() - started, 1)
        manifest = PairSetManifest(**config.written(), **result, held_out=shared, seconds=seconds)
        write_json(request.output / shard.manifest, manifest.written())
        return join_shards(request.output, shard, PairSetManifest, _joined)


class _Work:
    """One shard in progress: its parts go through the three steps one after the other, so that only one part is in memory."""

    def __init__(self, request: GenerateRequest, config: PairSetConfig, prompts: Sequence[Prompt]) -> None:
        self.request, self.config = request, config
        stem = f"{request.shard.name}-part" if request.shard.name else "part"
        self.stem = stem
        self.parts = [
            Part(request.output / _CANDIDATES / f"{stem}-{number:05d}", prompts[start : start + request.part_size])
            for number, start in enumerate(range(0, len(prompts), request.part_size))
        ]
        for part in self.parts:
            make_folder(part.folder)
        self.counts: Counter[str] = Counter()
        self.unjudged: Counter[str] = Counter()

    def run(self) -> dict[str, Any]:
        """Sample, judge, pair; returns what the manifest says of it."""
        refused = self.request.sampler.run(self.parts)
        answered_by = self.request.sampler.answered_by(self.parts)
        self.counts["could not be answered"] += len(refused)
        self._judge()
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
            "not_judged": dict(self.unjudged.most_common(_REASONS)),
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

    def _candidates(self, part: Part) -> Iterator[Candidate]:
        unjudged = Verdict(0.0)
        for prompt, answers in self.request.sampler.answers(part):
            judged = [Judged(number, response, unjudged) for number, response in answers]
            for answer in usable(judged, Counter()):
                yield Candidate(f"{prompt.id}#{answer.number}", prompt, answer.response.text.strip())

    def _pairs(self, part: Part, *, count: bool = False) -> Iterator[Pair]:
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
        for name in (MANIFEST, self.request.shard.manifest):
            remove(folder / name, within=folder)
        for old in folder.glob(f"{self.stem}-*.parquet"):
            remove(old, within=folder)
        for name in names:
            move(folder / f"{name}{UNFINISHED}", folder / name, within=folder)
        return files


def _without_held_out(prompts: list[Prompt], held_out: Sequence[EvaluationSet]) -> tuple[list[Prompt], dict[str, int]]:
    """The prompts whose images no evaluation suite asks about; suite -> images left out."""
    if not held_out:
        return prompts, {}
    compared = overlaps({prompt.id: prompt.image for prompt in prompts}, held_out)
    shared = {name for overlap in compared for name in overlap.all}
    if len(shared) == len(prompts):
        raise BadInputError("all images are images of the evaluation suites", remedy="take other --prompts")
    return [prompt for prompt in prompts if prompt.id not in shared], {
        overlap.suite: len(overlap.all) for overlap in compared if overlap.all
    }


def _config(request: GenerateRequest, prompts: Sequence[Prompt]) -> PairSetConfig:
    """Everything that determines the set."""
    sampler = request.sampler
    contents = [[prompt.id, prompt.text, prompt.image.fingerprint()] for prompt in prompts]
    target = sampler.target
    return PairSetConfig(
        kind=KIND,
        format=FORMAT,
        model=SampledModel(label=target.model, name=target.name, fingerprint=target.fingerprint),
        template=target.template,
        backend=sampler.backend_settings.identity(sampler.backend.name),
        prompts=Prompts(source=request.prompts, count=len(prompts), fingerprint=sha256_json(contents)),
        sampling=sampler.sample.model_dump(),
        judge=request.judge.identity(),
        pairing=request.pair.model_dump() | {"min_gap": request.min_gap},
        seed=sampler.seed,
        shards=request.shard.count,
        part_size=request.part_size,
    )


def _kept(request: GenerateRequest, config: PairSetConfig) -> PairSetManifest | None:
    """The manifest if the set is complete; else None.

    Raises:
        BadInputError: the folder contains other files, or a set with other settings that must not be replaced.
    """
    folder = request.output
    if (folder / CONFIG).exists() and request.overwrite:
        if "kind" in (changed := changed_keys(folder, config.written())):
            raise BadInputError("the folder is not a set of pairs", where=str(folder), remedy="write to another folder")
    else:
        same_set(folder, config.written(), "set of pairs", beside=[_CANDIDATES])
        changed = []
    if changed or not (folder / request.shard.manifest).exists():
        return None
    kept = read_manifest(folder / request.shard.manifest, PairSetManifest)
    stored = kept.written()
    if any(stored.get(key) != value for key, value in json.loads(json.dumps(config.written())).items()):
        return None  # --overwrite was interrupted: the manifest belongs to the set that was to be replaced
    logger.info(f"the set is complete: {folder}")
    return kept


def _balances(manifest: PairSetManifest) -> list[LengthBalance]:
    """Of a shard, or of all shards of a whole set."""
    balance = manifest.length_balance
    return balance if isinstance(balance, list) else [balance]


def _joined(shards: Sequence[PairSetManifest]) -> dict[str, Any]:
    """The keys of the whole set's manifest that replace a shard's."""
    counts, unjudged = Counter[str](), Counter[str]()
    for one in shards:
        counts.update(one.counts)
        unjudged.update(one.not_judged)
    return {
        "pairs": sum(one.pairs for one in shards),
        "counts": dict(counts),
        "not_judged": dict(unjudged.most_common(_REASONS)),
        "length_balance": [found.written() for one in shards for found in _balances(one)],
        "judged_by": [one.judged_by for one in shards],
        "files": [file.written() for one in shards for file in one.files],
        "seconds": round(sum(one.seconds for one in shards), 1),
    }
