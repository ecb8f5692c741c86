"""`harness eval`: one engine for a base and its adapters, one log per suite and checkpoint, then the scores."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.analysis.scored import items_beside
from harness.checkpoints.verify import ensure_verified
from harness.core.contract import json_of
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import sha256_file, write_json
from harness.core.progress import progress
from harness.core.record import check
from harness.evaluation.consistency import HUB_COMMIT, check_commit, check_dtype
from harness.evaluation.context import check_context
from harness.evaluation.jobs import Job, Key, pending, request_hashes
from harness.evaluation.refusals import stored_refusals
from harness.evaluation.reliance import Answered, reliance
from harness.evaluation.repeats import repeat_folder, spread
from harness.evaluation.request import EvalRequest, prepare
from harness.evaluation.responses import ResponseLog, one_model
from harness.evaluation.sampling import no_answers
from harness.evaluation.score import item_rows, score_suite, write_scores
from harness.evaluation.shards import write_shard
from harness.evaluation.suites import SAMPLE_SEED, Suite
from harness.judging.base import Judge
from harness.models import computation_files, first_tokens, load_processor, refuse_control
from harness.records.answer_files import ServedRecord, ShardRecord, read_serving
from harness.records.changed_scores import ChangedScoresRecord
from harness.records.score_files import SuiteScores
from harness.remote import hub
from harness.runs.targets import Target, engine_of
from harness.serving.base import Backend
from harness.serving.contract import completions_of

logger = logging.getLogger(__name__)


def run_eval(request: EvalRequest) -> Sequence[SuiteScores | ShardRecord]:
    """Generate what is not in the logs yet, score everything, and return the score records; with `request.shard` the shards' records.

    Raises:
        BadInputError: names, data or checkpoints are unusable; raised before an engine starts.
        HarnessError: the engine failed (what was answered is kept), or too many items could not be scored.
    """
    return run_prepared(request, *prepare(request))


def run_prepared(
    request: EvalRequest, suites: Sequence[Suite], data_name: str, judge: Judge | None
) -> Sequence[SuiteScores | ShardRecord]:
    """As `run_eval`, with what `prepare` returned."""
    by_base: dict[str, list[Target]] = defaultdict(list)
    for target in request.targets:
        by_base[target.base].append(target)
    records: list[SuiteScores | ShardRecord] = []
    for base, targets in by_base.items():
        records += _Evaluation(request, base, targets, suites, data_name, judge).run()
    return records


class _Evaluation:
    """The checkpoints of one base on all suites: one engine generates the missing answers, then everything is scored."""

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
            folder = suite.folder(target.folder, data_name)
            folder = self.shard.folder(folder) if self.shard else repeat_folder(folder, repeat)
            self.folders[target.name, suite.key, repeat] = folder
        self.refused: dict[str, str] = {}
        """Request hash -> why it cannot be answered."""

    def run(self) -> Sequence[SuiteScores | ShardRecord]:
        for target in self.targets:
            target.begin()
        with ExitStack() as stack:
            self.logs = {
                key: stack.enter_context(ResponseLog(folder, afresh=self.request.overwrite))
                for key, folder in self.folders.items()
            }
            self._check_computation()
            self.hashes = request_hashes(self.targets, self.suites, self.request.backend_identity, self.request.repeat)
            self._take_known()
            jobs = pending(self.targets, self.suites, self.logs, self.hashes, self.request.repeat)
            if jobs and self.request.generate:
                backend = engine_of(self.targets, self.request.backend, self.request.backend_settings)
                stack.callback(backend.close)
                if not self.request.verify:  # which has an engine of its own
                    backend.prepare()
                processor = None if self.targets[0].remote else load_processor(self.base)
                self._check_questions(processor)
                self._check_commit(jobs)
                if processor is not None:
                    check_context((job.request for job in jobs), self.base, self.request.backend_settings, processor)
                if self.request.verify:
                    ensure_verified(self.targets, self.request.backend, self.request.backend_settings)
                self._generate(jobs, backend)
            elif self.request.generate:
                idle = "; --verify has nothing to check" if self.request.verify else ""
                logger.info("every answer is stored already, so the model is not asked%s", idle)
            if self.shard:
                return [self._finish_shard(target, suite) for target in self.targets for suite in self.suites]
            return [record for target in self.targets for record in self._score_all(target)]

    def _check_computation(self) -> None:
        """Refuse stored answers of a model whose settings were edited since: it would answer differently with the same weights.

        Raises:
            BadInputError: the settings differ; the message names the files.
        """
        self.computed_with: dict[Key, dict[str, dict[str, str]]] = {}
        local = {target.name: target for target in self.targets if not (target.remote or target.imported)}
        now = {name: computation_files(target.base, target.adapter) for name, target in local.items()}
        weights = {name: target.fingerprint for name, target in local.items()}
        for key, folder in self.folders.items():
            name, path = key[0], folder / "serving.json"
            if name not in weights:
                continue
            before = (read_serving(path).computed_with if path.exists() else None) or {}
            then = before.get(weights[name], now[name])
            files = {**then, **now[name]}.keys() - {HUB_COMMIT}
            if changed := sorted(file for file in files if then.get(file) != now[name].get(file)):
                raise BadInputError(
                    f"{' and '.join(changed)} of '{name}' changed after its stored answers were generated",
                    where=str(folder),
                    remedy="--overwrite generates them again; or restore the file",
                )
            self.computed_with[key] = {**before, weights[name]: {**then, **now[name]}}

    def _check_commit(self, jobs: Sequence[Job]) -> None:
        """Refuse to continue answers of another version of a model on the hub. Called after its processor was loaded, which brings the
        newest version into the hub's cache.

        Raises:
            BadInputError: the versions differ.
        """
        commit = None if Path(self.base).is_dir() else hub.cached_commit(self.base)
        weights = {target.name: target.fingerprint for target in self.targets}
        asked = {log for job in jobs for log, _ in job.answers}
        for key, computed in self.computed_with.items():  # none for an endpoint
            if commit is not None and self.logs[key] in asked:
                check_commit(computed[weights[key[0]]], commit, key[0], self.folders[key])
                computed[weights[key[0]]][HUB_COMMIT] = commit

    def _check_dtype(self, serving: Mapping[str, Any], asked: Set[ResponseLog]) -> None:
        """Refuse to continue answers in another data type, which is known when the engine runs.

        Raises:
            BadInputError: the data types differ.
        """
        stored = {
            place[:3]
            for place, digest in self.hashes.items()
            if self.logs[place[:3]].record(place[3], digest) is not None
        }
        for key in stored:
            path = self.folders[key] / "serving.json"
            if self.logs[key] in asked and path.exists():
                check_dtype(read_serving(path), serving, self.request.backend_settings, path.parent)

    def _take_known(self) -> None:
        """Reuse answers to the same question about the same picture, which `shuffled` may show, or about none."""
        for target, suite in itertools.product(self.targets, self.suites):
            if suite.change is None or not (suite.change.kind == "shuffled" or suite.without_picture):
                continue
            key, plain = (target.name, suite.key, 0), (target.name, suite.name, 0)
            # With --shard, the same question may belong to an item of another shard, whose job answers it.
            asked = {self.hashes[(*plain, item.id)]: item.id for item in suite.items}
            served, serving = (self.folders[which] / "serving.json" for which in (plain, key))
            if (
                served.exists() and not serving.exists()
            ):  # if nothing is left to ask, only the log knows which model answered
                write_json(serving, read_serving(served).written())
            for item in suite.items:
                digest = self.hashes[(*key, item.id)]
                other = self.logs[plain].record(asked[digest], digest) if digest in asked else None
                if other is not None and self.logs[key].get(item.id, digest) is None:
                    self.logs[key].put(other.model_copy(update={"item": item.id}))

    def _check_questions(self, processor: Any) -> None:
        """Check that no question contains a control token; for an endpoint's model, only the common tokens are known. Check that answers
        whose likelihoods are compared are single tokens of the model.

        Raises:
            BadInputError: one does, or they are not; the message names the suite and the item.
        """
        for suite in self.suites:
            for choices in {item.choices for item in suite.items if item.choices and processor is not None}:
                first_tokens(processor, choices)
            for item in suite.items:
                refuse_control({"the question": item.prompt}, processor, f"{suite.name}, item {item.id}")

    def _generate(self, jobs: Sequence[Job], backend: Backend) -> None:
        """Run the engine over the jobs and log every answer as it comes."""
        by_name = {target.served: target for target in self.targets}
        # Once per target and not per answer, because it looks at every weight file.
        answered_by = functools.cache(lambda name, model: by_name[name].answered_by(model))
        by_hash = {job.hash: job for job in jobs}
        asked = {log for job in jobs for log, _ in job.answers}
        with backend:
            serving = json_of(backend)
            self._check_dtype(serving, asked)
            # Before the first answer, so that it also exists for answers before a kill; and after the last, because a remote backend
            # only learns from the answers which model gave them.
            self._write_serving(serving, asked)
            if any(job.request.choices for job in jobs):
                backend.check_likelihoods()
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
                self._write_serving(json_of(backend) | spent, asked)
            rates = [f"{took[what] / seconds:,.0f} {what.replace('_', ' ')}" for what in took]
            logger.info(f"{took['answers']:,} answers in {seconds:.0f} s: {', '.join(rates)} per second")

    def _write_serving(self, serving: Mapping[str, Any], asked: Set[ResponseLog]) -> None:
        """Record the engine where its answers go; a folder whose answers are all stored keeps the record of the engine that gave them."""
        for key, folder in self.folders.items():
            path, computed = folder / "serving.json", self.computed_with.get(key)
            if self.logs[key] not in asked and path.exists():
                continue
            record = {**serving, **({} if computed is None else {"computed_with": computed})}
            write_json(path, check(ServedRecord, record, "serving record", path).written())

    def _refused(self, suite: Suite, key: Key) -> dict[str, str]:
        """Item id -> why it could not be answered."""
        digests = {item.id: self.hashes[(*key, item.id)] for item in suite.items}
        if self.request.generate:
            refused = {name: self.refused[digest] for name, digest in digests.items() if digest in self.refused}
        else:  # stored answers: nothing was asked now, so only their records know what was refused
            target, questions, repeat = key
            known, log = stored_refusals(self.folders[target, questions, 0], repeat), self.logs[key]
            refused = {name: known[name] for name in digests if name in known and log.get(name, digests[name]) is None}
        self._check_refused(suite, refused)
        return refused

    def _finish_shard(self, target: Target, suite: Suite) -> ShardRecord:
        """Write this shard's record; `harness merge` joins it with the others."""
        assert self.shard
        key = (target.name, suite.key, 0)
        if not suite.items:
            raise BadInputError(f"{suite.name} has fewer images than shards; shard {self.shard.label}")
        refused = self._refused(suite, key)
        model = self._one_model(target, suite, 0)
        about = ShardRecord(
            target=target.name,
            suite=suite.name,
            change=suite.change.word if suite.change else None,
            data=self.data_name,
            index=self.shard.index,
            count=self.shard.count,
            limit=self.request.limit,
            items=len(suite.items),
            of=suite.whole,
            refused=refused,
            model=model,
            checkpoint=target.answered_by(model),
            sampling=suite.sampling.model_dump(),
            backend=self.request.backend_identity,
            template=target.template,
            folder=str(self.folders[key]),
        )
        write_shard(self.folders[key], about)
        return about

    def _score_all(self, target: Target) -> list[SuiteScores]:
        """A record for every suite; with changed pictures also a comparison with the plain answers, which are scored just before."""
        records = []
        clean: tuple[Answered, str, str] | None = None
        for suite in self.suites:
            record, answered = self._score(target, suite)
            folder = self.folders[target.name, suite.key, 0]
            if suite.change is None:
                path = write_scores(folder, record, item_rows(suite.items, answered.responses, answered.scores))
                clean = answered, sha256_file(items_beside(path)), path.name
            else:
                assert clean is not None
                without = suite.without_picture
                compared = reliance(suite.benchmark, clean[0], answered, clean[1], without)
                pictures = suite.change.about() | ({"without_picture": len(without)} if without else {})
                more = {"pictures": pictures, "reliance": compared.written()}
                record = check(ChangedScoresRecord, record.written() | more, "scores", folder)
                # A report finds the plain scores by the name.
                write_scores(folder, record, item_rows(suite.items, answered.responses, answered.scores), clean[2])
            records.append(record)
        return records

    def _score(self, target: Target, suite: Suite) -> tuple[SuiteScores, Answered]:
        """The score of the first answers, with the spread over the repeats if there are any."""
        scored = [self._score_repeat(target, suite, repeat) for repeat in range(self.request.repeat)]
        record, answered = scored[0]
        if len(scored) > 1:
            record = record.model_copy(
                update={"repeats": spread([one[0] for one in scored], [one[1].responses for one in scored])}
            )
        return record, answered

    def _score_repeat(self, target: Target, suite: Suite, repeat: int) -> tuple[SuiteScores, Answered]:
        """The score record of one repeat, and its scores with their responses."""
        key = (target.name, suite.key, repeat)
        log = self.logs[key]
        found = {item.id: log.get(item.id, self.hashes[(*key, item.id)]) for item in suite.items}
        responses = {name: answer for name, answer in found.items() if answer is not None}
        refused = self._refused(suite, key)
        if not responses:
            raise no_answers(target.name, log.path, suite.sampling)
        model = self._one_model(target, suite, repeat)
        serving = read_serving(self.folders[key] / "serving.json").written()
        serving.pop("computed_with", None)
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
                "sampling": {"max_new_tokens": None} if target.imported else suite.sampling.model_dump(),
                # Answers of earlier commands count, too, so only the log knows which model answered.
                "serving": serving | ({"answered_by": [model]} if target.remote else {}),
                **({"sample": {"limit": self.request.limit, "seed": SAMPLE_SEED}} if suite.sampled else {}),
                **({"refused": refused} if refused else {}),
            },
        )
        return record, Answered(scores, responses)

    def _check_refused(self, suite: Suite, refused: Mapping[str, str]) -> None:
        """Raise an error if too many requests were refused, with the reason of the first."""
        if refused and len(refused) == len(suite.items):
            name, reason = next(iter(refused.items()))
            raise HarnessError(
                f"all {len(refused)} requests were refused, so there is nothing to score; first: {reason}",
                where=f"{suite.name}, item {name}",
                remedy="fix the cause, or ask more items: a larger --limit, or fewer shards",
            )
        if len(refused) <= self.request.max_unscored * len(suite.items):
            return
        name, reason = next(iter(refused.items()))
        share = math.ceil(100 * len(refused) / len(suite.items)) / 100
        raise HarnessError(
            f"{len(refused)} of {len(suite.items)} requests were refused; first: {reason}",
            where=f"{suite.name}, item {name}",
            remedy=f"fix the cause, or count them as unscored: --max-unscored {share}",
        )

    def _one_model(self, target: Target, suite: Suite, repeat: int) -> str:
        """The model that gave all answers, "" if it is the checkpoint itself; an endpoint's name may refer to another model later.

        Raises:
            HarnessError: several models answered.
        """
        key = (target.name, suite.key, repeat)
        log = self.logs[key]
        records = (log.record(item.id, self.hashes[(*key, item.id)]) for item in suite.items)
        models = (record.model for record in records if record is not None)
        return one_model(models, target.base, suite.name, log.path)
