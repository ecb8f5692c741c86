"""LLaMA-Factory's ShareGPT preference format, with an image.

Source: LLaMA-Factory's data/README.md: `conversations` (messages {from, value} by human and gpt), `chosen` and `rejected` (a message
each), `images` (paths relative to the data folder), `<image>` in the text where the image belongs. `dataset_info.json` next to the file
may name other columns and tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from aligners.preferences.formats.base import BadRecordError, Format, Record, Said, image_of
from aligners.preferences.formats.described import entry_of
from aligners.preferences.formats.turns import OPENAI, Tags, content_of, question_of
from harness.core.typed import kind_of

_COLUMNS = {
    "messages": "conversations",
    "chosen": "chosen",
    "rejected": "rejected",
    "images": "images",
    "system": "system",
}
_TAGS = Tags("from", "value", "human", "gpt", "system")
_TAG_NAMES = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


@dataclass(frozen=True)
class ShareGpt(Format):
    """One image, a conversation that ends with a human turn, two answers. Tools are refused."""

    columns: Mapping[str, str] = field(default_factory=lambda: _COLUMNS)
    tags: Tags = _TAGS

    name: ClassVar[str] = "sharegpt"
    title: ClassVar[str] = "LLaMA-Factory's ShareGPT preference format"
    needs: ClassVar[str] = "conversations ({from, value}), chosen, rejected (a message each), images"

    @property
    def columns_read(self) -> frozenset[str]:  # type: ignore[override]
        """See `Format`."""
        return frozenset({*self.columns.values(), "messages"})

    def for_file(self, file: Path) -> ShareGpt:
        """The names of `dataset_info.json`, if one describes the file (`described.entry_of`)."""
        if (entry := entry_of(file, "sharegpt")) is None:
            return self
        tags = {_TAG_NAMES[name]: value for name, value in entry.tags.items() if name in _TAG_NAMES}
        return replace(self, columns={**_COLUMNS, **entry.columns}, tags=replace(_TAGS, **tags))

    def taken(self, sample: Record) -> Mapping[str, str]:
        """See `Format`."""
        messages = self.columns["messages"] if self.columns["messages"] in sample else "messages"
        return {"prompt": messages, "chosen": self.columns["chosen"], "rejected": self.columns["rejected"]}

    def recognises(self, sample: Record) -> bool:
        """See `Format`."""
        messages = sample.get(self.columns["messages"], sample.get("messages"))
        answers = [sample.get(self.columns[name]) for name in ("chosen", "rejected")]
        return isinstance(messages, list) and all(isinstance(answer, Mapping) for answer in answers)

    def said(self, record: Record) -> Said:
        """See `Format`."""
        messages = record.get(self.columns["messages"], record.get("messages"))
        if not isinstance(messages, list):
            raise BadRecordError(f"'{self.columns['messages']}' is {kind_of(messages)}, not a list of messages")
        tags = self._spoken(messages)
        asked = question_of(messages, "the conversation", tags).after(record.get(self.columns["system"]))
        named = self.columns["images"]
        image = record.get(named) if named != "images" else None
        return Said(
            asked.prompt,
            self._answer(record, "chosen", tags),
            self._answer(record, "rejected", tags),
            image=image if image is not None else image_of(record),
            history=asked.history,
            image_in_prompt=asked.image_in_prompt,
        )

    def _spoken(self, messages: list[Any]) -> Tags:
        """The tags as described; if messages have {role, content} instead, those of the OpenAI form."""
        first = messages[0] if messages and isinstance(messages[0], Mapping) else {}
        return OPENAI if self.tags.role not in first and OPENAI.role in first else self.tags

    def _answer(self, record: Record, name: str, tags: Tags) -> Any:
        message = record.get(self.columns[name])
        if not isinstance(message, Mapping):
            raise BadRecordError(f"'{name}' is {kind_of(message)}, not a message")
        if (role := tags.role_of(message)) != tags.assistant:
            raise BadRecordError(f"'{name}' has the role '{role}', not '{tags.assistant}'")
        return content_of(message, tags, images=False)
