"""TRL's preference format, with an image.

Source: TRL's documentation, "Dataset formats and types": preference data is `prompt`, `chosen`, `rejected`, or the last two, with their
common beginning as an implicit prompt; each a text (standard) or a list of messages {role, content} (conversational), whose
content is a text or a list of parts {"type": "image"}, {"type": "text", "text": ...}; images in `images` (a list) or `image`.
Differences: an implicit prompt of standard texts ends at the end of a word, while TRL's may end inside a word; and it is only used for
files without any other text column, which would probably be the prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from aligners.preferences.formats.base import (
    COMMON,
    PROVENANCE,
    BadRecordError,
    Format,
    Record,
    Said,
    has_image,
    image_of,
    says_something,
)
from aligners.preferences.formats.turns import Asked, answer, is_messages, question_of


@dataclass(frozen=True)
class Trl(Format):
    """One image, a conversation that ends with a question, two answers."""

    implicit: bool = False
    """Whether the prompt is the answers' common beginning; decided per file, not per record."""

    name: ClassVar[str] = "trl"
    title: ClassVar[str] = "TRL's preference format"
    needs: ClassVar[str] = (
        "images or image, chosen, rejected, and prompt unless it is implicit; texts or lists of {role, content}"
    )
    columns_read = frozenset({"prompt", "chosen", "rejected", "system"})

    def for_columns(self, sample: Record) -> Trl:
        """Recognise by the columns whether the prompt is implicit."""
        return replace(self, implicit=sample.get("prompt") is None)

    def taken(self, sample: Record) -> Mapping[str, str]:
        """See `Format`."""
        prompt = "the common beginning of chosen and rejected" if self.implicit else "prompt"
        return {"prompt": prompt, "chosen": "chosen", "rejected": "rejected"}

    def recognises(self, sample: Record) -> bool:
        """See `Format`."""
        texts = [sample.get(name) for name in ("chosen", "rejected")]
        if sample.get("prompt") is not None:
            texts.append(sample["prompt"])
        if not has_image(sample):
            return False
        if all(is_messages(text) for text in texts):
            return True
        if not all(isinstance(text, str) for text in texts):
            return False
        # With one `image` and a prompt, standard texts are the plain form, which reads the same.
        return sample.get("images") is not None if len(texts) == 3 else not other_texts(sample)

    def said(self, record: Record) -> Said:
        """See `Format`."""
        prompt, chosen, rejected = (record.get(name) for name in ("prompt", "chosen", "rejected"))
        if self.implicit:
            if says_something(prompt):
                raise BadRecordError("the record has a 'prompt', but the file's first records have an implicit one")
            if isinstance(chosen, str) and (others := other_texts(record)):
                raise BadRecordError(
                    f"there is no 'prompt', but '{others[0]}', which may be it; the file's first records have neither"
                )
            prompt, chosen, rejected = _split(chosen, rejected)
        asked = (question_of(prompt) if isinstance(prompt, list) else Asked(prompt)).after(record.get("system"))
        return Said(
            asked.prompt,
            answer(chosen, "chosen") if isinstance(chosen, list) else chosen,
            answer(rejected, "rejected") if isinstance(rejected, list) else rejected,
            image=image_of(record),
            source=record.get("source"),
            history=asked.history,
            image_in_prompt=asked.image_in_prompt,
        )


def other_texts(sample: Record) -> list[str]:
    """Columns besides the answers with a text that may be a prompt."""
    known = COMMON | PROVENANCE | {"chosen", "rejected", "system"}
    return [
        name
        for name, value in sample.items()
        if name not in known and (isinstance(value, str) or is_messages(value)) and says_something(value)
    ]


def _split(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """The common beginning, and what comes after it in each."""
    if type(chosen) is not type(rejected) or not isinstance(chosen, (str, list)):
        raise BadRecordError("there is no 'prompt', and chosen and rejected are not two texts or two lists of messages")
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    if isinstance(chosen, str):
        if same < max(len(chosen), len(rejected)):
            same = max(chosen.rfind(blank, 0, same) for blank in (" ", "\n", "\t")) + 1
        if not chosen[:same].strip():
            raise BadRecordError("there is no 'prompt', and chosen and rejected do not start with the same text")
        return chosen[:same].rstrip(), chosen[same:], rejected[same:]
    if not same:
        raise BadRecordError("there is no 'prompt', and chosen and rejected do not start with the same message")
    return chosen[:same], chosen[same:], rejected[same:]
