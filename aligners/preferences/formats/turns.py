"""Extracting one user turn, or one answer, from a list of messages.

A message is {role, content} (OpenAI's names), or has other keys given by tags; its content is a text or a list of parts
{"type": "image"}, {"type": "text", "text": ...}. An example is one turn, so system prompts and earlier turns are refused; an empty
system turn is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aligners.preferences.formats.base import BadRecordError, says_something, shown
from harness.core.typed import kind_of


@dataclass(frozen=True, slots=True)
class Tags:
    """The keys and roles of messages."""

    role: str = "role"
    content: str = "content"
    user: str = "user"
    assistant: str = "assistant"
    system: str = "system"

    def role_of(self, message: Any) -> str:
        """A message's role; for anything else, the beginning of the value, for an error message."""
        if not isinstance(message, Mapping):
            return shown(message)
        role = message.get(self.role)
        return role if isinstance(role, str) else shown(role)


OPENAI = Tags()


def is_messages(value: Any, tags: Tags = OPENAI) -> bool:
    """Whether a value is a list of messages."""
    return (
        isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) and tags.role in one for one in value)
    )


def without_silent_system(messages: Sequence[Any], tags: Tags = OPENAI) -> list[Any]:
    """The messages without empty system turns."""
    return [
        message
        for message in messages
        if not (
            tags.role_of(message) == tags.system
            and isinstance(message, Mapping)
            and not _words(message.get(tags.content))
        )
    ]


def _words(content: Any) -> bool:
    """Whether a content is not empty, ignoring the type of its parts."""
    if isinstance(content, list):
        return any(
            says_something({**part, "type": None}) if isinstance(part, Mapping) else says_something(part)
            for part in content
        )
    return says_something(content)


def user_turn(messages: Sequence[Any], what: str = "the prompt", tags: Tags = OPENAI) -> str:
    """The text of what must be one user turn; its image part is left out, because the chat template adds the image.

    Raises:
        BadRecordError: it is something else.
    """
    spoken = without_silent_system(messages, tags)
    roles = [tags.role_of(one) for one in spoken]
    if roles != [tags.user]:
        raise BadRecordError(f"{what} is not one {tags.user} turn but: {', '.join(roles[:8]) or 'nothing'}")
    return content_of(spoken[0], tags, images=True)


def answer(messages: Sequence[Any], name: str, tags: Tags = OPENAI) -> str:
    """The text of what must be one assistant turn.

    Raises:
        BadRecordError: it is something else.
    """
    roles = [tags.role_of(one) for one in messages]
    if roles != [tags.assistant]:
        raise BadRecordError(f"'{name}' is not one {tags.assistant} turn but: {', '.join(roles[:8]) or 'nothing'}")
    return content_of(messages[0], tags, images=False)


def content_of(message: Mapping[str, Any], tags: Tags = OPENAI, *, images: bool) -> str:
    """The text of a message.

    Raises:
        BadRecordError: it has other parts than texts, or more images than `images`.
    """
    content = message.get(tags.content)
    if not isinstance(content, list):
        if not isinstance(content, str):
            raise BadRecordError(f"a message's content is {kind_of(content)}, not a text or a list of parts")
        return content
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in content]
    if kinds.count("image") > (1 if images else 0):
        raise BadRecordError(f"a {tags.role_of(message)} message has {kinds.count('image')} images")
    texts = []
    for part, kind in zip(content, kinds, strict=True):
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind != "image":
            raise BadRecordError(f"a part of a message is neither an image nor a text: {shown(part)}")
    return "".join(texts)
