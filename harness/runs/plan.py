"""`--dry-run`: what an evaluation would ask, and what judging it would cost."""

from __future__ import annotations

from typing import Any

from harness.runs.evaluate import EvalRequest, prepare
from harness.runs.jobs import request_hashes
from harness.runs.responses import ResponseLog
from harness.runs.suites import suite_folder
from harness.types import Response

_ASSUMED_ANSWER = "word " * 80
"""Stands for an answer that is not there yet, when a judge's prompt is measured."""


def plan_eval(request: EvalRequest) -> list[dict[str, Any]]:
    """One row a target and suite: items, images, answers that are there, judge calls, tokens and dollars.

    Nothing is asked, made or written. A world's model and data are made, since its questions depend on them.

    Raises:
        BadInputError: names, settings, data or checkpoints are at fault.
    """
    suites, data_name, judge = prepare(request)
    rows = []
    for target in request.targets:
        hashes = request_hashes([target], suites, request.backend_identity)
        for suite in suites:
            name = suite.name
            kept = ResponseLog.peek(suite_folder(target.folder, name, data_name))
            texts = {item.id: kept.get((item.id, hashes[target.name, name, 0, item.id])) for item in suite.items}
            there = sum(text is not None for text in texts.values())
            items = suite.items if request.generate else [item for item in suite.items if texts[item.id] is not None]
            row: dict[str, Any] = {
                "target": target.name,
                "suite": name,
                "data": data_name,
                "items": len(items),
                "images": len({item.group for item in items}),
                "answered": there,
                "to_generate": len(items) - there,
                "new_tokens_at_most": (len(items) - there) * suite.benchmark.max_new_tokens,
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
            rows.append(row)
    return rows
