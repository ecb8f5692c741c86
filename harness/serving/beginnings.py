"""Answers that a model continues: their tokens after the prompt, and the text of the whole answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.models import AnswerEncoder


class Beginnings:
    """Token ids and texts of answers that have a beginning, for one processor.

    Args:
        processor: processor of the model.
    """

    def __init__(self, processor: Any) -> None:
        self._tokenizer, self._encoder = processor.tokenizer, AnswerEncoder(processor)

    def written(self, beginning: str) -> str:
        """What follows the prompt's text."""
        return self._encoder.separator + beginning

    def ids(self, beginning: str) -> list[int]:
        """The tokens that follow the prompt."""
        return self._encoder.encode(beginning)[0]

    def whole(self, beginning: str, new: Sequence[int]) -> str:
        """The text of the whole answer: a tokenizer decodes a continuation with the blank before it only after its beginning."""
        ids = self.ids(beginning)
        head, text = (self._tokenizer.decode(part, skip_special_tokens=True) for part in (ids, [*ids, *new]))
        return (beginning + text[len(head) :]).strip()
