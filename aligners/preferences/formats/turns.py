"""Extracting a conversation that ends with a question, or one answer, from a list of messages.

A message is {role, content} (OpenAI's names), or has other keys given by tags; its content is a text or a list of parts
{"type": "image"}, {"type": "text", "text": ...}. A conversation is a system turn or none, then questions and answers in turn; an empty
system turn is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from aligners.preferences.formats.base import BadRecordError, says_something, shown
from harness.core.typed import kind_of
from harness.core.types import Turn

Role = Literal["system", "user", "assistant"]


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


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation that ends with a question: the names and values of `Said`."""

    prompt: Any
    history: tuple[Turn, ...] = ()
    image_in_prompt: bool = False

    def after(self, system: Any = None, pairs: Any = None) -> Asked:
        """The same after a system turn and earlier questions with their answers, as columns have them.

        Args:
            system: the text of a column; nothing if it is empty.
            pairs: a list of [question, answer]; nothing if it is empty.

        Raises:
            BadRecordError: one has another form, or the conversation has a system turn, too.
        """
        history = self.history
        if says_something(pairs):
            if not isinstance(pairs, list) or not all(
                isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
                for pair in pairs
            ):
                raise BadRecordError(f"the earlier turns are not a list of [question, answer]: {shown(pairs)}")
            if history:
                raise BadRecordError("the record has earlier turns in two columns")
            history = tuple(
                turn for question, said in pairs for turn in (Turn("user", question), Turn("assistant", said))
            )
        if says_something(system):
            if not isinstance(system, str):
                raise BadRecordError(f"the system prompt is {kind_of(system)}, not a text: {shown(system)}")
            if history and history[0].role == "system":
                raise BadRecordError("the record has two system prompts: a column and a turn")
            history = (Turn("system", system), *history)
        return replace(self, history=history)


def question_of(messages: Sequence[Any], what: str = "the prompt", tags: Tags = OPENAI) -> Asked:
    """A conversation that ends with a user's turn; image parts are left out of the texts, because the chat template adds the image.

    Raises:
        BadRecordError: it is something else.
    """
    spoken = without_silent_system(messages, tags)
    roles = [tags.role_of(message) for message in spoken]
    begin = int(bool(roles) and roles[0] == tags.system)
    expected = [(tags.user, tags.assistant)[place % 2] for place in range(len(roles) - begin)]
    if roles[begin:] != expected or not expected or expected[-1] != tags.user:
        raise BadRecordError(
            f"{what} is not a conversation that ends with a {tags.user} turn but: {', '.join(roles[:8]) or 'nothing'}"
        )
    names: dict[str, Role] = {tags.system: "system", tags.user: "user", tags.assistant: "assistant"}
    *history, last = (
        Turn(names[role], content_of(message, tags, images=role == tags.user), _has_image(message, tags))
        for role, message in zip(roles, spoken, strict=True)
    )
    return Asked(last.text, tuple(history), last.has_image)


def _has_image(message: Mapping[str, Any], tags: Tags) -> bool:
    """Whether a message has an image part."""
    content = message.get(tags.content)
    return isinstance(content, list) and any(
        isinstance(part, Mapping) and part.get("type") == "image" for part in content
    )


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
