"""Verdicts from replies: votes, retries for unreadable replies, and the reasons for missing verdicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from harness.core.errors import shown
from harness.core.plugins import wrong
from harness.judging.base import Judge, JudgeReply, JudgeRequest, check_votes
from harness.judging.replies import UnreadableError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Vote(Generic[T]):
    """One vote on one item.

    Attributes:
        value: what was read from the reply; None if nothing could be.
        text: the reply that `value` was read from, or the last one.
        first: the first reply, which an official script that asks once would use.
        reason: why there is no value.
        cut_off: whether the last reply ended at the limit of tokens.
    """

    value: T | None
    text: str | None
    first: str | None
    reason: str | None = None
    cut_off: bool = False


def ask(
    judge: Judge, requests: Sequence[JudgeRequest], read: Callable[[str], T | None], *, whole: bool = False
) -> dict[str, list[Vote[T]]]:
    """Ask for every item's votes; one that cannot be read is requested again, `judge.asks` times in all.

    Args:
        judge: its `votes` and `asks` are the number of votes and of attempts per vote.
        requests: one per item.
        read: the verdict in a reply; None or an `UnreadableError` with the reason, if there is no unambiguous one.
        whole: whether the verdict needs the whole reply: one that was cut off at the limit of tokens is then not read.

    Returns:
        Item id -> its votes, in order, each with a value or a reason.

    Raises:
        BadInputError: several votes of a deterministic judge.
        BudgetError, HarnessError: see `Judge.judge`.
    """
    check_votes(judge)
    votes: dict[str, list[Vote[T]]] = {request.item.id: [] for request in requests}
    asks = judge.asks if judge.samples else 1
    for vote in range(judge.votes):
        open_ = {request.item.id: request for request in requests}
        latest: dict[str, Vote[T]] = {}
        for attempt in range(asks):
            numbered = [dataclasses.replace(request, sample=vote * asks + attempt) for request in open_.values()]
            if not numbered:
                break
            for reply in _replies(judge, numbered):
                before = latest.get(reply.item_id)
                first = before.first if before else reply.text
                if reply.text is None:  # the judge has already retried; what it gave up on is not requested again
                    reason = f"the judge gave no reply: {reply.error}"
                    latest[reply.item_id] = Vote(None, None, first, reason, reply.cut_off)
                    del open_[reply.item_id]
                    continue
                value, why = (None, " (it was cut off)") if whole and reply.cut_off else _read(read, reply.text)
                if value is None:
                    reason = f"the judge's reply cannot be parsed{why}: {reply.text[-80:]!r}"
                    latest[reply.item_id] = Vote(None, reply.text, first, reason, reply.cut_off)
                else:
                    latest[reply.item_id] = Vote(value, reply.text, first, cut_off=reply.cut_off)
                    del open_[reply.item_id]
        for name, cast in votes.items():
            cast.append(latest.get(name) or Vote(None, None, None, "the judge gave no reply"))
    return votes


def _replies(judge: Judge, requests: Sequence[JudgeRequest]) -> Iterator[JudgeReply]:
    """`Judge.judge`, checked: replies to what was asked, each once.

    Raises:
        PluginError: a reply is invalid, belongs to no request, or is a second one.
    """
    replies, open_ = judge.judge(requests), {request.item.id for request in requests}
    expected = "an iterator of JudgeReply, one per request, with its item's id"
    if not isinstance(replies, Iterable):
        raise wrong(judge, "judge", shown(replies), expected)
    for reply in replies:
        if not isinstance(reply, JudgeReply) or reply.item_id not in open_:
            raise wrong(judge, "judge", shown(reply), expected)
        if not isinstance(reply.text, str | None) or (reply.text is None and not isinstance(reply.error, str)):
            raise wrong(judge, "judge", shown(reply), "text: a text; or None, and then an error text")
        open_.remove(reply.item_id)
        yield reply


def _read(read: Callable[[str], T | None], text: str) -> tuple[T | None, str]:
    """The verdict, or None and why there is none, as the end of a sentence."""
    try:
        return read(text), ""
    except UnreadableError as error:
        return None, f" ({error})"
