"""`--dry-run`: the number of questions of an evaluation, its time, and the cost of judging."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.core.types import Item, Response
from harness.evaluation.jobs import request_hashes
from harness.evaluation.repeats import repeat_folder
from harness.evaluation.request import EvalRequest, prepare
from harness.evaluation.responses import ResponseLog
from harness.evaluation.suites import Suite, suite_folder
from harness.judging.base import Judge
from harness.models import PromptLengths, load_processor
from harness.records.answer_files import Took, read_serving
from harness.runs.folders import open_run
from harness.runs.targets import Target

_ASSUMED_ANSWER = "word " * 80
"""Placeholder for a missing answer when the length of a judge's prompt is estimated."""


def plan_eval(request: EvalRequest) -> list[dict[str, Any]]:
    """One row per target and suite: items, images, stored answers, tokens, time, judge calls and dollars.

    Items and images are counted once; everything else is the sum over the repeats. Nothing is asked, made or written. A world's model and
    data are made, since its questions depend on them.

    Raises:
        BadInputError: names, settings, data or checkpoints are unusable.
    """
    suites, data_name, judge = prepare(request)
    if request.shard:
        suites = [request.shard.of(suite) for suite in suites]
    rows = []
    for target in request.targets:
        hashes = request_hashes([target], suites, request.backend_identity, request.repeat)
        rows += [_row(request, target, suite, hashes, data_name, judge) for suite in suites]
    return rows


def _row(
    request: EvalRequest,
    target: Target,
    suite: Suite,
    hashes: Mapping[tuple[str, str, int, str], str],
    data_name: str,
    judge: Judge | None,
) -> dict[str, Any]:
    repeats = _stored_texts(request, target, suite, hashes, data_name)
    counted = [[item for item in suite.items if request.generate or texts[item.id] is not None] for texts in repeats]
    missing = [item for items, texts in zip(counted, repeats, strict=True) for item in items if texts[item.id] is None]
    prompt_tokens = None if target.remote else _prompt_tokens(target, missing)
    mean = _mean_new_tokens(target, suite, data_name)
    new_tokens = None if mean is None else round(mean * len(missing))
    row: dict[str, Any] = {
        "target": target.name,
        "suite": suite.name,
        "change": suite.change.word if suite.change else None,
        "data": data_name,
        "items": len(counted[0]),
        "of": suite.whole,
        "images": len({item.group for item in counted[0]}),
        "answered": sum(text is not None for texts in repeats for text in texts.values()),
        "to_generate": len(missing),
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "new_tokens_at_most": sum(1 if item.choices else suite.sampling.max_new_tokens for item in missing),
        "seconds": _seconds(request, target, suite, data_name, len(missing), new_tokens),
        "judge": None,
    }
    if judge is not None and suite.benchmark.needs_judge:
        row |= _judging(judge, suite, counted, repeats)
    return row


def _stored_texts(
    request: EvalRequest,
    target: Target,
    suite: Suite,
    hashes: Mapping[tuple[str, str, int, str], str],
    data_name: str,
) -> list[dict[str, str | None]]:
    """Item id -> stored answer, None without one; a dictionary per repeat, each of which has its own folder.

    With `--overwrite` there are none: everything is generated again, and the verdicts on the old answers do not count for the new ones.
    """
    if request.overwrite:
        return [dict.fromkeys((item.id for item in suite.items), None) for _ in range(request.repeat)]
    folder = suite.folder(target.folder, data_name)
    repeats: list[dict[str, str | None]] = []
    for repeat in range(request.repeat):
        kept = ResponseLog.peek(request.shard.folder(folder) if request.shard else repeat_folder(folder, repeat))
        key = (target.name, suite.key, repeat)
        repeats.append({item.id: kept.get((item.id, hashes[(*key, item.id)])) for item in suite.items})
    return repeats


def _judging(
    judge: Judge, suite: Suite, counted: Sequence[Sequence[Item]], repeats: Sequence[Mapping[str, str | None]]
) -> dict[str, Any]:
    """What judging costs: the answers of every repeat are judged."""
    estimates = []
    for items, texts in zip(counted, repeats, strict=True):
        answers = {key: Response(key, _ASSUMED_ANSWER if text is None else text) for key, text in texts.items()}
        estimates.append(judge.estimate(suite.benchmark.judge_requests(items, answers)))
    prices = [estimate.usd for estimate in estimates if estimate.usd is not None]
    return {
        "judge": judge.label,
        "judge_calls": sum(estimate.calls for estimate in estimates),
        "judge_kept": sum(estimate.kept for estimate in estimates),
        "judge_prompt_tokens": sum(estimate.prompt_tokens for estimate in estimates),
        "judge_completion_tokens_at_most": sum(estimate.completion_tokens for estimate in estimates),
        "judge_usd_at_most": sum(prices) if len(prices) == len(estimates) else None,
    }


def _prompt_tokens(target: Target, items: Sequence[Item]) -> int:
    """Tokens of all prompts, with each image expanded for its size."""
    if not items:
        return 0
    lengths = PromptLengths(load_processor(target.base))
    sizes: dict[str, tuple[int, int] | None] = {}
    for item in items:
        if item.image.fingerprint() not in sizes:
            sizes[item.image.fingerprint()] = None if item.image.absent else item.image.size()
    return sum(lengths.length(item.prompt, sizes[item.image.fingerprint()]) for item in items)


def _mean_new_tokens(target: Target, suite: Suite, data_name: str) -> float | None:
    """Mean tokens of an answer, from this checkpoint's answers to the suite, or else those of other runs; None if there are none."""
    own = suite_folder(target.folder, suite.name, data_name)
    others = sorted(target.folder.parent.glob(f"*/evals/{suite.name}@{data_name}"))
    for folder in [own, *(one for one in others if one != own)]:
        if lengths := ResponseLog.peek_lengths(folder):
            return statistics.fmean(lengths)
    return None


def _seconds(
    request: EvalRequest, target: Target, suite: Suite, data_name: str, asked: int, new_tokens: int | None
) -> float | None:
    """Time of `asked` answers at the rate of this backend's earlier answers, for this checkpoint or others of its model.

    That is the rate per answer of the same suite. If it was only asked together with others, or not at all, it is the rate per new token,
    because a suite's answers can be a hundred times as long as another's. None if neither is known.
    """
    if not asked:
        return 0.0
    # Whether the suite was asked, too -> seconds per new token of the first such record.
    per_token: dict[bool, float] = {}
    for suites, took in _measured(request, target, data_name):
        if suites == {suite.name}:
            return asked * took.seconds / took.answers
        if took.completion_tokens:
            per_token.setdefault(suite.name in suites, took.seconds / took.completion_tokens)
    if new_tokens is None or not per_token:
        return None
    return new_tokens * per_token.get(True, per_token.get(False, 0.0))


def _measured(request: EvalRequest, target: Target, data_name: str) -> Iterator[tuple[set[str], Took]]:
    """The suites that were asked together by this backend, and how long it took; this checkpoint's first, then others of its model."""
    for run in [target.folder, *(run for run in sorted(target.folder.parent.glob("*")) if run != target.folder)]:
        together: dict[str, tuple[set[str], Took]] = {}
        for path in sorted(run.glob(f"evals/*@{data_name}/serving.json")):
            record = read_serving(path)
            if record.took and record.backend == request.backend.name:
                # One command writes the same record for every suite that it asked.
                suites, _ = together.setdefault(record.took.model_dump_json(), (set(), record.took))
                suites.add(path.parent.name.removesuffix(f"@{data_name}"))
        if together and open_run(run).base_label == target.model:
            yield from together.values()
