"""`harness eval`: one engine for a base and its adapters, one log a suite and checkpoint, then scores."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.checkpoints.verify import ensure_verified
from harness.core import registry
from harness.core.config import parse
from harness.core.contract import json_of
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import write_json
from harness.core.progress import progress
from harness.core.types import Response
from harness.evaluation.jobs import Job, Key, pending, request_hashes
from harness.evaluation.repeats import repeat_folder, spread
from harness.evaluation.responses import ResponseLog
from harness.evaluation.score import item_rows, make_judge, score_suite, write_scores
from harness.evaluation.shards import Shard, write_shard
from harness.evaluation.suites import SAMPLE_SEED, Suite, check_inside, data_root, open_suite, suite_folder
from harness.judging.base import Judge
from harness.models import PromptLengths, context_length, load_processor, refuse_control
from harness.records.answer_files import read_serving
from harness.runs.targets import Target
from harness.serving.base import Backend, BackendSettings
from harness.serving.contract import completions_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalRequest:
    """What the user asked for. `data` is a data root, "official", or a world's label with an optional @split."""

    targets: Sequence[Target]
    suites: Sequence[str]
    data: str
    backend: type[Backend]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By group: a suite's name, "judge", "backend" or "sampling"."""
    judge: str | None = None
    max_unscored: float = 0.01
    limit: int | None = None
    overwrite: bool = False
    generate: bool = True
    """False: only what is answered already is scored."""
    shard: Shard | None = None
    """Answer only this part, and score nothing."""
    repeat: int = 1
    """Ask everything so often; the first answers are the score, the others tell its spread."""
    verify: bool = False
    """Make sure first that what is served is what was trained (`harness.checkpoints.verify.ensure_verified`)."""

    @property
    def judge_settings(self) -> Mapping[str, Any]:
        """The judge's part of the settings."""
        return self.settings.get("judge", {})

    @property
    def backend_settings(self) -> BackendSettings:
        """The backend's part of the settings.

        Raises:
            BadInputError: it has no such setting.
        """
        values = dict(self.settings.get("backend", {}))
        return parse(self.backend.Settings, values, f"backend {self.backend.name}")

    @property
    def backend_identity(self) -> str:
        """The backend with those of its settings that can change an answer."""
        return self.backend_settings.identity(self.backend.name)


def run_eval(request: EvalRequest) -> list[dict[str, Any]]:
    """Generate what is not in the logs yet, score everything, and return the score records.

    Raises:
        BadInputError: names, data or checkpoints are at fault; said before an engine starts.
        HarnessError: the engine failed (what was answered is kept), or too many items could not be scored.
    """
    suites, data_name, judge = prepare(request)
    by_base: dict[str, list[Target]] = defaultdict(list)
    for target in request.targets:
        by_base[target.base].append(target)
    records = []
    for base, targets in by_base.items():
        records += _Evaluation(request, base, targets, suites, data_name, judge).run()
    return records


def prepare(request: EvalRequest) -> tuple[list[Suite], str, Judge | None]:
    """The suites with their items, the data's name, and the judge if one of the suites needs one.

    Raises:
        BadInputError: names, settings or data are at fault, or the backend does not serve what is to be evaluated.
    """
    if request.limit is not None and request.limit < 1:
        raise BadInputError(f"--limit must be at least 1, not {request.limit}")
    if request.repeat > 1 and request.shard:
        raise BadInputError(
            "--repeat and --shard do not go together", remedy="repeat without shards, at a smaller --limit"
        )
    known = {*registry.entries("benchmarks"), "judge", "backend", "sampling"}
    if unknown := sorted(set(request.settings) - known):
        raise BadInputError(
            f"unknown group of settings '{unknown[0]}'",
            remedy=f"--set GROUP.KEY=VALUE; groups: {', '.join(sorted(known))}",
        )
    _ = request.backend_settings
    _check_backend(request)
    others = {*registry.entries("benchmarks")} - {*request.suites}
    if idle := sorted(name for name, group in request.settings.items() if name in others and group):
        raise BadInputError(
            f"settings of '{idle[0]}' decide nothing where the suites are {', '.join(request.suites)}",
            remedy=f"leave them out, or add '{idle[0]}' to --suite",
        )
    root, data_name, world_judge = data_root(request.data)
    suites = [open_suite(name, root, request.settings, request.limit) for name in request.suites]
    if request.backend.remote:
        check_inside(suites, root)
    if not any(suite.benchmark.needs_judge for suite in suites):
        if request.judge or request.judge_settings:
            raise BadInputError(
                f"no judge is asked about {', '.join(request.suites)}",
                remedy="leave the options and settings of a judge out",
            )
        return suites, data_name, None
    # A judge model that is named is meant, even in a world that has a judge of its own.
    default = "openai" if request.judge_settings else world_judge or "openai"
    return suites, data_name, make_judge(request.judge or default, request.judge_settings)


def _check_backend(request: EvalRequest) -> None:
    """Weights that lie here are not an endpoint's to serve, nor the other way round."""
    for target in request.targets:
        if target.remote and not request.backend.remote:
            raise BadInputError(
                f"'{target.name}' is a model behind an endpoint: the backend '{request.backend.name}' cannot serve it",
                remedy=f"--backend openai --endpoint URL --model {target.base}",
            )
        if request.backend.remote and not target.remote:
            raise BadInputError(
                f"the backend '{request.backend.name}' asks a model by its name at an endpoint, '{target.name}' is weights here",
                remedy="name the endpoint's model with --model, or take another --backend",
            )


class _Evaluation:
    """The checkpoints of one base on all suites: what is missing is generated by one engine, then all is scored."""

    def __init__(
        self,
        request: EvalRequest,
        base: str,
        targets: Sequence[Target],
        suites: Sequence[Suite],
        data_name: str,
        judge: Judge | None,
    ) -> None:
        self.request, self.base, self.targets = request, base, targets
        self.data_name, self.judge, self.shard = data_name, judge, request.shard
        self.suites = [self.shard.of(suite) if self.shard else suite for suite in suites]
        self.folders: dict[Key, Path] = {}
        for target, suite, repeat in itertools.product(targets, suites, range(request.repeat)):
            folder = suite_folder(target.folder, suite.name, data_name)
            folder = self.shard.folder(folder) if self.shard else repeat_folder(folder, repeat)
            self.folders[target.name, suite.name, repeat] = folder
        self.refused: dict[str, str] = {}
        """Request hash -> why it cannot be answered."""

    def run(self) -> list[dict[str, Any]]:
        for target in self.targets:
            target.begin()
        with ExitStack() as stack:
            self.logs = {
                key: stack.enter_context(ResponseLog(folder, afresh=self.request.overwrite))
                for key, folder in self.folders.items()
            }
            self.hashes = request_hashes(self.targets, self.suites, self.request.backend_identity, self.request.repeat)
            jobs = pending(self.targets, self.suites, self.logs, self.hashes, self.request.repeat)
            if jobs and self.request.generate:
                processor = None if self.targets[0].remote else load_processor(self.base)
                self._check_questions(processor)
                if processor is not None:
                    self._check_context(jobs, processor)
                if self.request.verify:
                    ensure_verified(self.targets, self.request.backend, self.request.backend_settings)
                self._generate(jobs)
            elif self.request.generate:
                idle = "; --verify has nothing to check" if self.request.verify else ""
                logger.info("every answer is there already, and nobody is asked%s", idle)
            finish = self._finish_shard if self.shard else self._score
            return [finish(target, suite) for target in self.targets for suite in self.suites]

    def _check_questions(self, processor: Any) -> None:
        """No question holds a control token; of an endpoint's model only the common ones are known.

        Raises:
            BadInputError: one does; with the suite and the item.
        """
        for suite in self.suites:
            for item in suite.items:
                refuse_control({"the question": item.prompt}, processor, f"{suite.name}, item {item.id}")

    def _check_context(self, jobs: Sequence[Job], processor: Any) -> None:
        """The longest prompt, with its image, fits into the model's context.

        Raises:
            BadInputError: it does not; with the numbers.
        """
        given = getattr(self.request.backend_settings, "max_model_len", None)
        context = min((length for length in (context_length(self.base), given) if length), default=None)
        longest = max((job.request for job in jobs), key=lambda request: len(request.prompt))
        lengths, size = PromptLengths(processor), longest.image.size()
        whole, image = lengths.length(longest.prompt, size), lengths.image_tokens(size) + 1
        if context is not None and whole >= context:
            raise BadInputError(
                f"the context is too short: {context} tokens, of which the image takes {image} and the question {whole - image}, "
                "and the answer wants some",
                where=f"{self.base}, '{longest.prompt[:60]}'",
                remedy="raise --set backend.max_model_len, or take a model with a longer context"
                if given
                else "take a model with a longer context, or smaller images",
            )

    def _generate(self, jobs: Sequence[Job]) -> None:
        """Run the engine over the jobs and log every answer as it comes."""
        adapters = {target.name: target.adapter for target in self.targets if target.adapter}
        by_name = {target.served: target for target in self.targets}
        # Once a target, and not once an answer: it looks at every weight file.
        answered_by = functools.cache(lambda name, model: by_name[name].answered_by(model))
        by_hash = {job.hash: job for job in jobs}
        with self.request.backend(self.base, adapters, self.request.backend_settings) as backend:
            # Before the first answer, so that answers that a kill leaves behind have it; and after the last, since a
            # remote backend learns from the answers who gave them.
            self._write_serving(json_of(backend))
            logger.info(f"answers come from {backend.name}")
            took, start = Counter[str](), time.perf_counter()
            try:
                with progress("generating answers", len(jobs)) as advance:
                    for completion in completions_of(backend, (job.request for job in jobs)):
                        job = by_hash[completion.id]
                        took["answers"] += 1
                        took["prompt_tokens"] += completion.prompt_tokens or 0
                        took["completion_tokens"] += completion.completion_tokens or 0
                        if completion.refused is not None:
                            self.refused[job.hash] = completion.refused
                        else:
                            checkpoint = answered_by(completion.target, completion.model)
                            for log, item_id in job.answers:
                                log.add(item_id, job.hash, completion, backend.name, checkpoint)
                        advance()
            finally:
                seconds = time.perf_counter() - start
                spent = {"took": {**took, "seconds": round(seconds, 3)}} if took else {}
                self._write_serving(json_of(backend) | spent)
            rates = [f"{took[what] / seconds:,.0f} {what.replace('_', ' ')}" for what in took]
            logger.info(f"{took['answers']:,} answers in {seconds:.0f} s: {', '.join(rates)} a second")

    def _write_serving(self, serving: Mapping[str, Any]) -> None:
        for folder in self.folders.values():
            write_json(folder / "serving.json", serving)

    def _refused(self, suite: Suite, key: Key) -> dict[str, str]:
        """Item id -> why it could not be answered."""
        digests = {item.id: self.hashes[(*key, item.id)] for item in suite.items}
        refused = {name: self.refused[digest] for name, digest in digests.items() if digest in self.refused}
        self._check_refused(suite, refused)
        return refused

    def _finish_shard(self, target: Target, suite: Suite) -> dict[str, Any]:
        """Say what this shard holds; `harness merge` joins it with the others."""
        assert self.shard
        key = (target.name, suite.name, 0)
        if not suite.items:
            raise BadInputError(f"{suite.name} has fewer images than shards: none is left for shard {self.shard.label}")
        model = self._one_model(target, suite, 0)
        about = {
            "target": target.name,
            "suite": suite.name,
            "data": self.data_name,
            "index": self.shard.index,
            "count": self.shard.count,
            "limit": self.request.limit,
            "items": len(suite.items),
            "of": suite.whole,
            "refused": self._refused(suite, key),
            "model": model,
            "checkpoint": target.answered_by(model),
            "sampling": suite.sampling.model_dump(),
            "backend": self.request.backend_identity,
            "template": target.template,
            "folder": str(self.folders[key]),
        }
        write_shard(self.folders[key], about)
        return about

    def _score(self, target: Target, suite: Suite) -> dict[str, Any]:
        """The first answers' score, with the spread over the repeats where there are any."""
        scored = [self._score_repeat(target, suite, repeat) for repeat in range(self.request.repeat)]
        record, rows, _ = scored[0]
        if len(scored) > 1:
            record["repeats"] = spread([one[0] for one in scored], [one[2] for one in scored])
        write_scores(self.folders[target.name, suite.name, 0], record, rows)
        return record

    def _score_repeat(
        self, target: Target, suite: Suite, repeat: int
    ) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Response]]:
        """(score record, row an item, responses) of one repeat."""
        key = (target.name, suite.name, repeat)
        log = self.logs[key]
        found = {item.id: log.get(item.id, self.hashes[(*key, item.id)]) for item in suite.items}
        responses = {name: answer for name, answer in found.items() if answer is not None}
        refused = self._refused(suite, key)
        if not responses:
            raise BadInputError(
                f"none of the stored answers of '{target.name}' is to these questions",
                where=str(log.path),
                remedy="the data, the weights or the template changed: harness eval generates new ones",
            )
        model = self._one_model(target, suite, repeat)
        serving = read_serving(self.folders[key] / "serving.json")
        items = [item for item in suite.items if item.id in responses]
        data = self.request.data
        record, scores = score_suite(
            suite.benchmark,
            items,
            responses,
            judge=self.judge if suite.benchmark.needs_judge else None,
            max_unscored=self.request.max_unscored,
            of=suite.whole,
            about={
                "target": target.name,
                "method": target.method,
                "model": target.model,
                "data": self.data_name,
                "source": str(Path(data).resolve()) if Path(data).is_dir() else data,
                "checkpoint": target.answered_by(model),
                "sampling": suite.sampling.model_dump(),
                # Earlier commands' answers count too, so it is the log that knows who answered.
                "serving": serving | ({"answered_by": [model]} if target.remote else {}),
                **({"sample": {"limit": self.request.limit, "seed": SAMPLE_SEED}} if suite.sampled else {}),
                **({"refused": refused} if refused else {}),
            },
        )
        return record, item_rows(items, responses, scores), responses

    def _check_refused(self, suite: Suite, refused: Mapping[str, str]) -> None:
        """Too many requests that cannot be answered are an error, with the first one's reason."""
        if len(refused) <= self.request.max_unscored * len(suite.items):
            return
        name, reason = next(iter(refused.items()))
        share = math.ceil(100 * len(refused) / len(suite.items)) / 100
        raise HarnessError(
            f"{len(refused)} of {len(suite.items)} requests were refused; first: {reason}",
            where=f"{suite.name}, item {name}",
            remedy=f"mend the cause, or count them as unscored: --max-unscored {share}",
        )

    def _one_model(self, target: Target, suite: Suite, repeat: int) -> str:
        """The model that gave all answers, "" where it is the checkpoint itself; an endpoint may change its model behind the name.

        Raises:
            HarnessError: several models answered.
        """
        key = (target.name, suite.name, repeat)
        log = self.logs[key]
        records = [log.record(item.id, self.hashes[(*key, item.id)]) for item in suite.items]
        models = Counter(record.get("model", "") for record in records if record is not None)
        if len(models) > 1:
            named = ", ".join(f"{model} ({count})" for model, count in models.most_common())
            raise HarnessError(
                f"the answers to {suite.name} come from several models behind the name '{target.base}': {named}",
                where=str(log.path),
                remedy="name the dated model, or ask for all of them again: --overwrite",
            )
        return str(next(iter(models)))
