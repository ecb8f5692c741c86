"""`harness eval`: one engine for a base and its adapters, one log a suite and checkpoint, then scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import registry
from harness.errors import BadInputError
from harness.files import read_json, write_json
from harness.judging.base import Judge
from harness.models import load_processor, template_hash
from harness.progress import console, progress
from harness.runs.responses import ResponseLog, request_hash
from harness.runs.score import item_rows, make_judge, score_suite, write_scores
from harness.runs.suites import Suite, data_root, open_suite, suite_folder
from harness.runs.targets import BASE, Target
from harness.serving.base import Backend, Completion, Request


@dataclass(frozen=True)
class EvalRequest:
    """What the user asked for. `data` is a data root, "official", or a world's label with an optional @split."""

    targets: Sequence[Target]
    suites: Sequence[str]
    data: str
    backend: type[Backend]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    judge: str | None = None
    max_unscored: float = 0.01
    limit: int | None = None
    overwrite: bool = False
    generate: bool = True
    """False: only what is answered already is scored."""

    @property
    def judge_settings(self) -> Mapping[str, Any]:
        """The judge's part of the settings."""
        return self.settings.get("judge", {})


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
        records += _evaluate_base(base, targets, suites, request, data_name, judge)
    return records


def prepare(request: EvalRequest) -> tuple[list[Suite], str, Judge | None]:
    """The suites with their items, the data's name, and the judge if one of the suites needs one.

    Raises:
        BadInputError: names, settings or data are at fault.
    """
    root, data_name, world_judge = data_root(request.data)
    suites = [open_suite(name, root, request.settings.get(name, {}), request.limit) for name in request.suites]
    if not any(suite.benchmark.needs_judge for suite in suites):
        return suites, data_name, None
    # A judge model that is named is meant, even in a world that has a judge of its own.
    default = "openai" if request.judge_settings else world_judge or "openai"
    return suites, data_name, make_judge(request.judge or default, request.judge_settings)


def recorded_backend(targets: Sequence[Target], suites: Sequence[str], data: str) -> type[Backend]:
    """The backend that answered before.

    Raises:
        BadInputError: there are no answers, or several backends gave them.
    """
    _, data_name, _ = data_root(data)
    found = set()
    for target in targets:
        for suite in suites:
            path = suite_folder(target.folder, suite, data_name) / "serving.json"
            if not path.exists():
                raise BadInputError(
                    f"'{target.name}' has no answers to {suite} on {data_name}",
                    where=str(path.parent),
                    remedy=f"harness eval --run {target.name} --suite {suite} --data {data}",
                )
            found.add(read_json(path, "serving record")["backend"])
    if len(found) > 1:
        raise BadInputError(
            f"the answers come from several backends: {', '.join(sorted(found))}", remedy="judge the runs one at a time"
        )
    backend: type[Backend] = registry.load("backends", found.pop())
    return backend


@dataclass(frozen=True)
class _Job:
    """One request to the engine and every (log, item) that it answers."""

    request: Request
    hash: str
    answers: list[tuple[ResponseLog, str]]


def _evaluate_base(
    base: str,
    targets: Sequence[Target],
    suites: Sequence[Suite],
    request: EvalRequest,
    data_name: str,
    judge: Judge | None,
) -> list[dict[str, Any]]:
    template = template_hash(load_processor(base))
    folders = {
        (target.name, suite.name): suite_folder(target.folder, suite.name, data_name)
        for target in targets
        for suite in suites
    }
    records = []
    with ExitStack() as stack:
        if request.overwrite:
            for folder in folders.values():
                (folder / "responses.jsonl").unlink(missing_ok=True)
        logs = {key: stack.enter_context(ResponseLog(folder)) for key, folder in folders.items()}
        hashes = request_hashes(targets, suites, request.backend.name, template)
        jobs = _pending(targets, suites, logs, hashes)
        if jobs and request.generate:
            serving = _generate(base, targets, jobs, request.backend)
            for folder in folders.values():
                write_json(folder / "serving.json", serving)
        for target in targets:
            for suite in suites:
                key = (target.name, suite.name)
                found = {item.id: logs[key].get(item.id, hashes[(*key, item.id)]) for item in suite.items}
                responses = {name: answer for name, answer in found.items() if answer is not None}
                if not responses:
                    raise BadInputError(
                        f"none of the stored answers of '{target.name}' is to these questions",
                        where=str(logs[key].path),
                        remedy="the data, the weights or the template changed: harness eval generates new ones",
                    )
                items = [item for item in suite.items if item.id in responses]
                record, scores = score_suite(
                    suite.benchmark,
                    items,
                    responses,
                    judge=judge if suite.benchmark.needs_judge else None,
                    max_unscored=request.max_unscored,
                    of=suite.whole,
                    about={
                        "target": target.name,
                        "method": target.method,
                        "model": target.model,
                        "data": data_name,
                        "source": str(Path(request.data).resolve()) if Path(request.data).is_dir() else request.data,
                        "checkpoint": target.fingerprint,
                        "sampling": suite.sampling.model_dump(),
                        "serving": read_json(folders[key] / "serving.json", "serving record"),
                    },
                )
                write_scores(folders[key], record, item_rows(items, responses, scores))
                records.append(record)
    return records


def request_hashes(
    targets: Sequence[Target], suites: Sequence[Suite], backend: str, template: str
) -> dict[tuple[str, str, str], str]:
    """Request hash of every (target, suite, item)."""
    images: dict[int, str] = {}
    result = {}
    for target in targets:
        checkpoint = target.fingerprint
        for suite in suites:
            sampling = suite.sampling
            for item in suite.items:
                image = images.setdefault(id(item.image), "") or item.image.fingerprint()
                images[id(item.image)] = image
                result[target.name, suite.name, item.id] = request_hash(
                    item, image, sampling, checkpoint, template, backend
                )
    return result


def _pending(
    targets: Sequence[Target],
    suites: Sequence[Suite],
    logs: Mapping[tuple[str, str], ResponseLog],
    hashes: Mapping[tuple[str, str, str], str],
) -> list[_Job]:
    """What must be generated: each distinct request once, requests of one image together."""
    jobs: dict[str, _Job] = {}
    for target in targets:
        for suite in suites:
            name, log = suite.name, logs[target.name, suite.name]
            for item in suite.items:
                digest = hashes[target.name, name, item.id]
                if log.get(item.id, digest) is not None:
                    continue
                if digest not in jobs:
                    served = target.name if target.adapter else BASE
                    jobs[digest] = _Job(Request(digest, served, item.prompt, item.image, suite.sampling), digest, [])
                jobs[digest].answers.append((log, item.id))
    order: dict[int, int] = {}
    for job in jobs.values():
        order.setdefault(id(job.request.image), len(order))
    return sorted(jobs.values(), key=lambda job: (job.request.target, order[id(job.request.image)]))


def _generate(base: str, targets: Sequence[Target], jobs: Sequence[_Job], kind: type[Backend]) -> dict[str, Any]:
    """Run the engine over the jobs and log every answer as it comes."""
    adapters = {target.name: target.adapter for target in targets if target.adapter}
    prints = {target.name if target.adapter else BASE: target.fingerprint for target in targets}
    by_hash = {job.hash: job for job in jobs}
    with kind(Path(base) if Path(base).is_dir() else base, adapters, None) as backend:  # type: ignore[arg-type]
        console.print(f"[dim]answers come from {backend.name}[/dim]")
        with progress("generating answers", len(jobs)) as advance:
            for completion in _completions(backend, jobs):
                job = by_hash[completion.id]
                for log, item_id in job.answers:
                    log.add(item_id, job.hash, completion, backend.name, prints[completion.target])
                advance()
        return backend.provenance()


def _completions(backend: Backend, jobs: Sequence[_Job]) -> Iterator[Completion]:
    yield from backend.generate(job.request for job in jobs)
