"""LLaMA-Factory's ShareGPT preference format, with an image.

Source: LLaMA-Factory's data/README.md: `conversations` (messages {from, value} by human and gpt), `chosen` and `rejected` (a message
each), `images` (paths relative to the data folder), `<image>` in the text where the image belongs. `dataset_info.json` beside the file
may give columns and tags other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from aligners.data.cells import Cell
from aligners.data.formats.base import BadRecordError, Format, Record, Said, shown, single
from harness.errors import BadInputError
from harness.files import read_json

_COLUMNS = {
    "messages": "conversations",
    "chosen": "chosen",
    "rejected": "rejected",
    "images": "images",
    "system": "system",
}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}
_OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
_DESCRIPTION = "dataset_info.json"


@dataclass(frozen=True)
class ShareGpt(Format):
    """One image, one human turn, two answers. Systems, tools and earlier turns are refused: an example is one turn here."""

    columns: Mapping[str, str] = field(default_factory=lambda: _COLUMNS)
    tags: Mapping[str, str] = field(default_factory=lambda: _TAGS)

    name: ClassVar[str] = "sharegpt"
    title: ClassVar[str] = "LLaMA-Factory's ShareGPT preference format"
    needs: ClassVar[str] = "conversations ({from, value}), chosen, rejected (a message each), images"

    def for_file(self, file: Path) -> ShareGpt:
        """The names that `dataset_info.json` gives, where one describes the file.

        Raises:
            BadInputError: it describes the file as other data than preferences.
        """
        path = file.parent / _DESCRIPTION
        if not path.is_file():
            return self
        described = read_json(path, "description of data sets")
        entries = described.values() if isinstance(described, dict) else ()
        for entry in entries:
            if (
                isinstance(entry, dict)
                and entry.get("file_name") == file.name
                and entry.get("formatting") == "sharegpt"
            ):
                if not entry.get("ranking"):
                    raise BadInputError(
                        f"{_DESCRIPTION} says that {file.name} is no preference data: 'ranking' is not true",
                        where=str(path),
                    )
                return replace(
                    self,
                    columns={**_COLUMNS, **entry.get("columns", {})},
                    tags={**_TAGS, **entry.get("tags", {})},
                )
        return self

    def recognises(self, sample: Record) -> bool:
        """See `Format`."""
        messages = sample.get(self.columns["messages"], sample.get("messages"))
        answers = [sample.get(self.columns[name]) for name in ("chosen", "rejected")]
        return isinstance(messages, list) and all(isinstance(answer, Mapping) for answer in answers)

    def said(self, record: Record) -> Said:
        """See `Format`."""
        messages = record.get(self.columns["messages"], record.get("messages"))
        if not isinstance(messages, list):
            raise BadRecordError(f"'{self.columns['messages']}' is {type(messages).__name__}, not a list of messages")
        tags = self._tags(messages)
        if system := record.get(self.columns["system"]):
            raise BadRecordError(f"the record has a system prompt: {shown(system)}")
        if record.get("tools"):
            raise BadRecordError("the record has tools")
        roles = [str(message.get(tags["role_tag"])) if isinstance(message, Mapping) else "?" for message in messages]
        if roles != [tags["user_tag"]]:
            raise BadRecordError(
                f"the conversation is not one {tags['user_tag']} turn but: {', '.join(roles) or 'nothing'}"
            )
        image = record.get(self.columns["images"], record.get("image"))
        return Said(
            messages[0].get(tags["content_tag"]),
            self._answer(record, "chosen", tags),
            self._answer(record, "rejected", tags),
            image=image if isinstance(image, Cell) else single(image),
            rejected_image=record.get("rejected_image"),
            id=record.get("id"),
            number=record.get("idx"),
        )

    def _tags(self, messages: list[Any]) -> Mapping[str, str]:
        """The tags as described; where messages have {role, content} instead, those of the OpenAI form."""
        first = messages[0] if messages and isinstance(messages[0], Mapping) else {}
        plain = self.tags["role_tag"] not in first and _OPENAI["role_tag"] in first
        return {**self.tags, **_OPENAI} if plain else self.tags

    def _answer(self, record: Record, name: str, tags: Mapping[str, str]) -> Any:
        message = record.get(self.columns[name])
        if not isinstance(message, Mapping):
            raise BadRecordError(f"'{name}' is {type(message).__name__}, not a message")
        if (role := message.get(tags["role_tag"])) != tags["assistant_tag"]:
            raise BadRecordError(f"'{name}' is said by '{role}', not by '{tags['assistant_tag']}'")
        return message.get(tags["content_tag"])
