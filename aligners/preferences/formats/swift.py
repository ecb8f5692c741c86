"""ms-swift's preference format, with an image.

Source: ms-swift's documentation, "Custom dataset": `messages` (a conversation and the chosen answer), or `query` and `response`, with
`system` and `history` (a list of [question, answer]) if there are any; `rejected_response` (a text) or `rejected_messages` (the same
conversation with the other answer); `images`, and `rejected_images` if the rejected answer belongs to another image; `<image>` in the
text where the image belongs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aligners.preferences.formats.base import BadRecordError, Format, Record, Said, has_image, image_of, is_text
from aligners.preferences.formats.turns import Asked, answer, is_messages, question_of, without_silent_system
from harness.core.typed import kind_of


class Swift(Format):
    """One image, a conversation that ends with a question, two answers."""

    name, title = "swift", "ms-swift's preference format"
    needs = "messages (user, assistant) or query and response, rejected_response or rejected_messages, images"
    columns_read = frozenset(
        {"messages", "query", "response", "rejected_response", "rejected_messages", "system", "history"}
    )

    def taken(self, sample: Record) -> Mapping[str, str]:
        """See `Format`."""
        asked, chosen = ("messages", "messages") if sample.get("messages") is not None else ("query", "response")
        rejected = "rejected_messages" if sample.get("rejected_messages") is not None else "rejected_response"
        return {"prompt": asked, "chosen": chosen, "rejected": rejected}

    def recognises(self, sample: Record) -> bool:
        """See `Format`."""
        asked = is_messages(sample.get("messages")) or is_text(sample, "query", "response")
        other = is_text(sample, "rejected_response") or is_messages(sample.get("rejected_messages"))
        return has_image(sample) and asked and other

    def said(self, record: Record) -> Said:
        """See `Format`."""
        chosen: Any
        if record.get("messages") is not None:
            asked, chosen = _divided(record["messages"], "messages")
        else:
            asked, chosen = Asked(record.get("query")), record.get("response")
        rejected = record.get("rejected_response")
        if record.get("rejected_messages") is not None:
            if rejected is not None:
                raise BadRecordError("the record has both 'rejected_response' and 'rejected_messages'")
            again, rejected = _divided(record["rejected_messages"], "rejected_messages")
            if again != asked:
                raise BadRecordError("'rejected_messages' ask a different question from 'messages'")
        asked = asked.after(record.get("system"), record.get("history"))
        return Said(asked.prompt, chosen, rejected, image_of(record), None, asked.history, asked.image_in_prompt)


def _divided(messages: Any, name: str) -> tuple[Asked, str]:
    """Split a conversation into question and answer."""
    if not isinstance(messages, list):
        raise BadRecordError(f"'{name}' is {kind_of(messages)}, not a list of messages")
    spoken = without_silent_system(messages)
    return question_of(spoken[:-1], f"'{name}' before the answer"), answer(spoken[-1:], name)
