"""Answers that are being generated: the log of a suite that has no scores yet, as samples without a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.evaluation.responses import LOG, complete_answers
from harness.records.answer_files import AnswerRecord
from harness.records.item_files import ItemRow
from harness.reports.gather import SuiteSamples

NOT_YET = "the suite is being answered"


@dataclass(frozen=True)
class Answering:
    """One checkpoint's answers to a suite so far."""

    run: str
    suite: str
    data: str
    answers: Sequence[AnswerRecord]


def answering(results: Path) -> list[Answering]:
    """The suites of a results folder that have answers and no scores, in the order of their folders."""
    begun = []
    for log in sorted(results.glob(f"*/evals/*@*/{LOG}")):
        folder = log.parent
        if any(folder.glob("items*.jsonl")):
            continue
        suite, _, data = folder.name.partition("@")
        if answers := list(complete_answers(folder)):
            begun.append(Answering(folder.parent.parent.name, suite, data, answers))
    return begun


def add_unscored(suites: list[SuiteSamples], unscored: Sequence[Answering]) -> None:
    """Add answers to the samples of their suite; the questions are those of a checkpoint that has scores, if there is one.

    Args:
        suites: changed in place; a suite that no checkpoint has scores of is added.
        unscored: the answers.
    """
    for begun in unscored:
        same = [suite for suite in suites if (suite.name, suite.data) == (begun.suite, begun.data)]
        if not same:
            same = [SuiteSamples(begun.suite, begun.data, "", note="its questions are known when it is scored")]
            suites += same
        for suite in same:
            known = {item: row for rows in suite.rows.values() for item, row in rows.items()}
            suite.rows[begun.run] = {answer.item: _row(answer, known.get(answer.item)) for answer in begun.answers}


def _row(answer: AnswerRecord, asked: ItemRow | None) -> ItemRow:
    return ItemRow(
        item=answer.item,
        group=asked.group if asked else answer.item,
        prompt=asked.prompt if asked else "",
        text=answer.text,
        counts={},
        evidence=[],
        details={},
        unscored=answer.refusal or NOT_YET,
    )
