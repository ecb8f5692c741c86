"""Agreement of a judge with a reference rater, and with itself, on answers that were rated before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError, HarnessError
from harness.core.files import read_jsonl
from harness.core.types import ImageRef, Item, Response
from harness.judging.agreement import agreement, self_agreement
from harness.judging.base import Judge, JudgeRequest
from harness.judging.panel import ask


def read_reference(path: Path) -> Iterator[tuple[JudgeRequest, float]]:
    """Requests and reference ratings: rows {item, prompt, rating}, or the item file that `harness eval` or `score` wrote.

    Rows without a rating (they were not scored) are left out.

    Raises:
        BadInputError: a row has no prompt for the judge.
    """
    seen: set[str] = set()
    for number, row in enumerate(read_jsonl(path, "reference"), 1):
        details = row.get("details") or {}
        prompt, rating = details.get("judge_prompt", row.get("prompt")), details.get("rating", row.get("rating"))
        name = str(row.get("item", number))
        if "details" in row and "judge_prompt" not in details:
            raise BadInputError(
                "the item was not rated by a judge",
                where=f"{path}:{number}",
                remedy="give the item file of a suite that a judge rates (evals/SUITE@DATA/items-*.jsonl)",
            )
        if not isinstance(prompt, str) or not prompt:
            raise BadInputError("the row has no 'prompt' for the judge", where=f"{path}:{number}")
        if name in seen:
            raise BadInputError(f"the item {name} appears twice", where=f"{path}:{number}")
        seen.add(name)
        if isinstance(rating, int | float):
            item = Item(name, "", ImageRef(name=name), name, details.get("reference") or {})
            yield JudgeRequest(item, Response(name, str(row.get("text", ""))), prompt), float(rating)


def calibrate(judge: Judge, reference: Path, read: Callable[[str], float | None], below: float) -> dict[str, Any]:
    """Judge the reference's answers again and compare.

    Args:
        judge: the judge to calibrate.
        reference: see `read_reference`.
        read: returns the rating in a reply, see `Benchmark.read_reply`.
        below: a lower rating is a hallucination, see `Benchmark.hallucinated_below`.

    Returns:
        `reference` (agreement of the judge's mean rating, rounded, with the reference), `itself` (of its votes with each other),
        `unread` (items without a readable vote), and the judge's provenance.

    Raises:
        HarnessError: the reference has no rated row, or no reply could be read.
    """
    rows = list(read_reference(reference))
    if not rows:
        raise BadInputError("the reference has no row with a rating", where=str(reference))
    votes = ask(judge, [request for request, _ in rows], read)
    values = {name: [one.value for one in own if one.value is not None] for name, own in votes.items()}
    rated = [(wanted, values[request.item.id]) for request, wanted in rows if values[request.item.id]]
    if not rated:
        first = next(iter(votes.values()))[0]
        raise HarnessError(f"no reply could be parsed; the first: {first.reason}", where=f"judge {judge.label}")
    return {
        "reference": agreement(
            [wanted for wanted, _ in rated], [round(sum(own) / len(own)) for _, own in rated], below
        ),
        "itself": self_agreement([own for _, own in rated], below),
        "unread": len(rows) - len(rated),
        "judge": judge.provenance(),
    }
