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
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from aligners.preferences.set_folder import (
    CONFIG,
    changed_keys,
    join_shards,
    read_manifest,
    same_set,
)
from harness.core.disk import make_folder
from harness.core.errors import BadInputError
from harness.core.files import sha256_json, write_json
from harness.core.locks import writing
from harness.evaluation.responses import one_model
from harness.generation.held_out import LeftOut, without_held_out
from harness.generation.kept_answers import CANDIDATES
from harness.generation.prompts import read_prompts
from harness.generation.records import LengthBalance, PairSetConfig, PairSetManifest, Prompts, SampledModel
from harness.generation.sentences import SentenceWork
from harness.generation.table import FORMAT
from harness.generation.verdicts import objects_of
from harness.generation.work import REASONS, GenerateRequest, Work
from harness.judging.candidates import Prompt
from harness.runs.targets import BASE, base_run_name

logger = logging.getLogger(__name__)

KIND = "preference_pairs"


def generate(request: GenerateRequest) -> PairSetManifest:
    """Make the set, or one shard of it; finished parts are kept.

    Returns:
        The manifest of the shard.

    Raises:
        BadInputError: prompts, judge or folder are unusable, raised before anything is generated; or another process works on this shard.
        HarnessError: the model or the judge cannot be reached (answers so far are kept), or no pair could be made.
    """
    mine, prompts, left_out, invalid = prompts_of(request)
    shard = request.shard
    request.judge.check(mine)
    make_folder(request.output)
    what = "this set" + (f"'s shard {shard.number}" if shard.name else "")
    with writing(request.output / f".{shard.name or 'set'}.lock", what, request.output):
        config = _config(request, prompts)
        if not _is_done(request, config):
            write_json(request.output / CONFIG, config.written())
            started = time.perf_counter()
            kind = SentenceWork if request.judge.sentences else Work
            result = kind(request, config, mine).run()
            seconds = round(time.perf_counter() - started, 1)
            manifest = PairSetManifest(
                **config.written(), **result, **asdict(left_out), invalid_records=invalid, seconds=seconds
            )
            write_json(request.output / shard.manifest, manifest.written())
        # A shard that is done may have been killed before it wrote the manifest of the whole set.
        return join_shards(request.output, shard, PairSetManifest, partial(_joined, request.output))


def prompts_of(request: GenerateRequest) -> tuple[Sequence[Prompt], list[Prompt], LeftOut, int]:
    """The shard's prompts, those of the whole set, what was left out of it for evaluation suites, and the number of invalid records.

    Raises:
        BadInputError: the prompts cannot be read, judge, model and options do not fit each other, or the set of --answers-of has no
            answers.
    """
    _check_options(request)
    read = read_prompts(
        request.prompts,
        limit=request.limit,
        seed=request.sampler.seed,
        allow_download=request.allow_download,
        options=request.options,
        on_error=request.on_error,
    )
    prompts, left_out = without_held_out(read.prompts, request.held_out)
    mine = request.shard.of(prompts)
    if not mine:
        raise BadInputError(f"{len(prompts)} prompts are fewer than {request.shard.count} shards")
    return mine, prompts, left_out, len(read.dropped)


def _check_options(request: GenerateRequest) -> None:
    """Refuse options that do not fit each other, before the prompts are read.

    Raises:
        BadInputError: see `prompts_of`.
    """
    if request.sampler.sample.samples < 2 and not request.judge.makes_partners:
        raise BadInputError(
            f"the judge '{request.judge.name}' compares a prompt's answers, and one is not enough",
            remedy="sample.samples must be at least 2: --samples 10",
        )
    if request.overwrite and request.shard.count > 1:
        takes = "" if request.judge.sentences else f" --answers-of {request.output}"
        raise BadInputError(
            "--overwrite cannot replace one shard of a set, because the other shards have the old settings",
            where=str(request.output),
            remedy=f"write all shards to another folder: -o NEW{takes}",
        )
    if request.kept is not None and request.judge.sentences:
        raise BadInputError(
            f"the judge '{request.judge.name}' samples sentence by sentence, so whole answers are of no use to it",
            remedy="leave out --answers-of",
        )
    if request.judge.continues:
        if not request.sampler.backend.continues:
            raise BadInputError(
                f"the judge '{request.judge.name}' lets the model continue an answer, which the backend "
                f"'{request.sampler.backend.name}' cannot do",
                remedy="serve the model on this machine (--backend vllm or transformers), or take another --judge",
            )
        if request.ray is not None:
            raise BadInputError(
                f"--ray samples whole answers only, and the judge '{request.judge.name}' lets the model continue answers",
                remedy="leave out --ray, and use --shard I/N in several jobs",
            )


def _config(request: GenerateRequest, prompts: Sequence[Prompt]) -> PairSetConfig:
    """Everything that determines the set."""
    sampler = request.sampler
    target = sampler.target
    # Which other models were evaluated in the results folder does not change a set.
    name = base_run_name(target.model) if target.method == BASE else target.name
    return PairSetConfig(
        kind=KIND,
        format=FORMAT,
        model=SampledModel(label=target.model, name=name, fingerprint=target.fingerprint),
        template=target.template,
        backend=sampler.backend_settings.identity(sampler.backend.name),
        prompts=Prompts(source=request.prompts, count=len(prompts), fingerprint=_fingerprint(request, prompts)),
        sampling=sampler.sample.model_dump(),
        judge=request.judge.identity(),
        pairing=request.pair.model_dump() | {"min_gap": request.min_gap},
        seed=sampler.seed,
        shards=request.shard.count,
        part_size=request.part_size,
    )


def _fingerprint(request: GenerateRequest, prompts: Sequence[Prompt]) -> str:
    """Hash of the prompts with all that is known of them; their objects only if the judge goes by them."""
    contents: list[list[Any]] = [
        [prompt.id, prompt.text, prompt.image.fingerprint(), prompt.reference] for prompt in prompts
    ]
    if request.judge.reads_regions() and any(prompt.regions for prompt in prompts):
        for content, prompt in zip(contents, prompts, strict=True):
            content.append(objects_of(prompt))
    return sha256_json(contents)


def _is_done(request: GenerateRequest, config: PairSetConfig) -> bool:
    """Whether the shard has its manifest.

    Raises:
        BadInputError: the folder contains other files, or a set with other settings that must not be replaced.
    """
    folder = request.output
    if (folder / CONFIG).exists() and request.overwrite:
        if "kind" in (changed := changed_keys(folder, config.written())):
            raise BadInputError("the folder is not a set of pairs", where=str(folder), remedy="write to another folder")
    else:
        same_set(folder, config.written(), "set of pairs", beside=[CANDIDATES])
        changed = []
    if changed or not (folder / request.shard.manifest).exists():
        return False
    stored = read_manifest(folder / request.shard.manifest, PairSetManifest).written()
    if any(stored.get(key) != value for key, value in json.loads(json.dumps(config.written())).items()):
        return False  # --overwrite was interrupted: the manifest belongs to the set that was to be replaced
    what = f"shard {request.shard.number} of the set" if request.shard.name else "the set"
    logger.info(f"{what} is complete: {folder}")
    return True


def _balances(manifest: PairSetManifest) -> list[LengthBalance]:
    """Of a shard, or of all shards of a whole set."""
    balance = manifest.length_balance
    return balance if isinstance(balance, list) else [balance]


def _joined(folder: Path, shards: Sequence[PairSetManifest]) -> dict[str, Any]:
    """The keys of the whole set's manifest that replace a shard's.

    Raises:
        HarnessError: an endpoint answered the shards with several models.
    """
    answered = one_model(
        (shard.answered_by for shard in shards),
        shards[0].model.label,
        "the shards",
        folder,
        "into another folder with -o",
    )
    counts, unjudged = Counter[str](), Counter[str]()
    for one in shards:
        counts.update(one.counts)
        unjudged.update(one.not_judged)
    return {
        "answered_by": answered,
        "pairs": sum(one.pairs for one in shards),
        "counts": dict(counts),
        "not_judged": dict(unjudged.most_common(REASONS)),
        "length_balance": [found.written() for one in shards for found in _balances(one)],
        "judged_by": [one.judged_by for one in shards],
        "files": [file.written() for one in shards for file in one.files],
        "seconds": round(sum(one.seconds for one in shards), 1),
    }
