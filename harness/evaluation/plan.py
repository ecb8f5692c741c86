"""`--dry-run`: the number of questions of an evaluation, its time, and the cost of judging."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.types import Item, Response
from harness.evaluation.jobs import request_hashes
from harness.evaluation.request import EvalRequest, prepare
from harness.evaluation.responses import ResponseLog
from harness.evaluation.suites import Suite, suite_folder
from harness.judging.base import Judge
from harness.models import PromptLengths, load_processor
from harness.records.answer_files import read_serving
from harness.runs.folders import open_run
from harness.runs.targets import Target

_ASSUMED_ANSWER = "word " * 80
"""Placeholder for a missing answer when the length of a judge's prompt is estimated."""


def plan_eval(request: EvalRequest) -> list[dict[str, Any]]:
    """One row per target and suite: items, images, stored answers, tokens, time, judge calls and dollars.

    Nothing is asked, made or written. A world's model and data are made, since its questions depend on them.

    Raises:
        BadInputError: names, settings, data or checkpoints are unusable.
    """
    suites, data_name, judge = prepare(request)
    if request.shard:
        suites = [request.shard.of(suite) for suite in suites]
    rows = []
    for target in request.targets:
        hashes = request_hashes([target], suites, request.backend_identity)
        for suite in suites:
            own = {item.id: hashes[target.name, suite.key, 0, item.id] for item in suite.items}
            rows.append(_row(request, target, suite, own, data_name, judge))
    return rows


def _row(
    request: EvalRequest,
    target: Target,
    suite: Suite,
    hashes: Mapping[str, str],
    data_name: str,
    judge: Judge | None,
) -> dict[str, Any]:
    folder = suite.folder(target.folder, data_name)
    kept = ResponseLog.peek(request.shard.folder(folder) if request.shard else folder)
    texts = {item.id: kept.get((item.id, hashes[item.id])) for item in suite.items}
    items = suite.items if request.generate else [item for item in suite.items if texts[item.id] is not None]
    missing = [item for item in items if texts[item.id] is None]
    asked = len(missing) + (request.repeat - 1) * len(items)
    again = [*missing, *items * (request.repeat - 1)]
    prompt_tokens = None if target.remote else _prompt_tokens(target, again)
    mean = _mean_new_tokens(target, suite, data_name)
    new_tokens = None if mean is None else round(mean * asked)
    row: dict[str, Any] = {
        "target": target.name,
        "suite": suite.name,
        "change": suite.change.word if suite.change else None,
        "data": data_name,
        "items": len(items),
        "of": suite.whole,
        "images": len({item.group for item in items}),
        "answered": sum(text is not None for text in texts.values()),
        "to_generate": asked,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "new_tokens_at_most": sum(1 if item.choices else suite.sampling.max_new_tokens for item in again),
        "seconds": _seconds(request, target, data_name, asked),
        "judge": None,
    }
    if judge is not None and suite.benchmark.needs_judge:
        answers = {key: Response(key, _ASSUMED_ANSWER if text is None else text) for key, text in texts.items()}
        estimate = judge.estimate(suite.benchmark.judge_requests(items, answers))
        row |= {
            "judge": judge.label,
            "judge_calls": estimate.calls,
            "judge_kept": estimate.kept,
            "judge_prompt_tokens": estimate.prompt_tokens,
            "judge_completion_tokens_at_most": estimate.completion_tokens,
            "judge_usd_at_most": estimate.usd,
        }
    return row


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


def _seconds(request: EvalRequest, target: Target, data_name: str, asked: int) -> float | None:
    """Time at the rate of this backend's earlier answers, for this checkpoint or others of its model; None without such answers."""
    if not asked:
        return 0.0
    runs = [target.folder, *(one for one in sorted(target.folder.parent.glob("*")) if one != target.folder)]
    for path in [path for run in runs for path in sorted(run.glob(f"evals/*@{data_name}/serving.json"))]:
        record = read_serving(path)
        took = record.took
        if took and record.backend == request.backend.name and open_run(path.parents[2]).base_label == target.model:
            return asked * took.seconds / took.answers
    return None
