"""Preferences as LLaVA's conversations: two conversations that differ in the answer, or several answers in the last turn.

Sources: POVID's `train_dpo.py` (`conversations` and `rejected_conversations`, each with the human's turn and an answer; YiyangZhou/POVID);
NiuTrans' Vision-LLM-Alignment, `data/reward_samples.json` (`conversations`, whose last turn has a list of answers as its `value`, the
best one first).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from aligners.preferences.formats.base import BadRecordError, Format, Record, Said, has_image, image_of
from aligners.preferences.formats.turns import Asked, Tags, answer, is_messages, question_of, without_silent_system
from harness.core.typed import kind_of

LLAVA = Tags("from", "value", "human", "gpt", "system")


class TwoConversations(Format):
    """One image, and two conversations that differ in the last answer."""

    name, title = "povid", "two conversations, as POVID publishes them"
    needs = "image, conversations, rejected_conversations"
    columns_read = frozenset({"conversations", "rejected_conversations"})

    def taken(self, sample: Record) -> Mapping[str, str]:
        """See `Format`."""
        return {"prompt": "conversations", "chosen": "conversations", "rejected": "rejected_conversations"}

    def recognises(self, sample: Record) -> bool:
        """See `Format`."""
        return has_image(sample) and all(is_messages(sample.get(name), LLAVA) for name in self.columns_read)

    def said(self, record: Record) -> Said:
        """See `Format`."""
        asked, chosen = _divided(record, "conversations")
        again, rejected = _divided(record, "rejected_conversations")
        if again != asked:
            raise BadRecordError("'rejected_conversations' asks a different question from 'conversations'")
        return Said(
            asked.prompt,
            answer(chosen, "conversations", LLAVA),
            answer(rejected, "rejected_conversations", LLAVA),
            image_of(record),
            history=asked.history,
        )


class RankedAnswers(Format):
    """One image, a conversation that ends with a question, and a list of answers, the best one first: every answer is preferred to each
    one after it.
    """

    name, title = "ranked", "one turn with several answers, the best one first, as NiuTrans publishes them"
    needs = "image, conversations with a list of answers"
    columns_read = frozenset({"conversations"})

    def taken(self, sample: Record) -> Mapping[str, str]:
        """See `Format`."""
        return dict.fromkeys(("prompt", "chosen", "rejected"), "conversations")

    def recognises(self, sample: Record) -> bool:
        """See `Format`."""
        turns = sample.get("conversations")
        if not has_image(sample) or not isinstance(turns, list) or not is_messages(turns, LLAVA):
            return False
        return isinstance(turns[-1].get(LLAVA.content), list)

    def pairs(self, record: Record) -> list[Said]:
        """See `Format`."""
        asked, last = _divided(record, "conversations")
        roles = [LLAVA.role_of(turn) for turn in last]
        answers = last[0].get(LLAVA.content) if roles == [LLAVA.assistant] else None
        if not isinstance(answers, list) or len(answers) < 2:
            raise BadRecordError(
                "the last turn of 'conversations' is not an answering turn with a list of two or more answers"
            )
        return [
            Said(asked.prompt, better, worse, image_of(record), history=asked.history)
            for better, worse in itertools.combinations(answers, 2)
        ]

    def said(self, record: Record) -> Said:
        """The pair of the best and the second answer. See `Format`."""
        return self.pairs(record)[0]


def _divided(record: Record, name: str) -> tuple[Asked, list[Any]]:
    """The conversation before the last turn, and the last turn in a list."""
    turns = record.get(name)
    if not isinstance(turns, list):
        raise BadRecordError(f"'{name}' is {kind_of(turns)}, not a list of turns")
    spoken = without_silent_system(turns, LLAVA)
    return question_of(spoken[:-1], f"'{name}' before the answer", LLAVA), spoken[-1:]
