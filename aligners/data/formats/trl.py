"""TRL's preference format, with an image.

Source: TRL's documentation, "Dataset formats and types": preference data is `prompt`, `chosen`, `rejected`, or the last two with the
prompt implicit in their common beginning; each a text (standard) or a list of messages {role, content} (conversational), whose
content is a text or a list of parts {"type": "image"}, {"type": "text", "text": ...}; images in `images` (a list) or `image`.
Differences: an implicit prompt of standard texts ends at a word's end, where TRL's may end inside one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from aligners.data.cells import Cell
from aligners.data.formats.base import BadRecordError, Format, Record, Said, shown, single


class Trl(Format):
    """One image, one user turn, two answers. Systems and earlier turns are refused: an example is one turn here."""

    name, title = "trl", "TRL's preference format"
    needs = "images or image, chosen, rejected, and prompt unless it is implicit; texts or lists of {role, content}"

    def recognises(self, sample: Record) -> bool:
        """See `Format`."""
        if "images" not in sample and "image" not in sample:
            return False
        texts = [sample[name] for name in ("prompt", "chosen", "rejected") if name in sample]
        if "chosen" not in sample or "rejected" not in sample:
            return False
        if all(_is_messages(text) for text in texts):
            return True
        # With one `image` and a prompt, standard texts are the plain form, which reads the same.
        return all(isinstance(text, str) for text in texts) and ("images" in sample or "prompt" not in sample)

    def said(self, record: Record) -> Said:
        """See `Format`."""
        chosen, rejected = record.get("chosen"), record.get("rejected")
        prompt = record.get("prompt")
        if prompt is None:
            prompt, chosen, rejected = _split(chosen, rejected)
        image = record.get("images") if record.get("images") is not None else record.get("image")
        return Said(
            _user_turn(prompt) if isinstance(prompt, list) else prompt,
            _answer(chosen, "chosen") if isinstance(chosen, list) else chosen,
            _answer(rejected, "rejected") if isinstance(rejected, list) else rejected,
            image=image if isinstance(image, Cell) else single(image),
            rejected_image=record.get("rejected_image"),
            id=record.get("id"),
            number=record.get("idx"),
        )


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) and "role" in one for one in value)


def _split(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """The common beginning, and what comes after it in each."""
    if type(chosen) is not type(rejected) or not isinstance(chosen, (str, list)):
        raise BadRecordError("there is no 'prompt', and chosen and rejected are not two texts or two lists of messages")
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    if isinstance(chosen, str):
        if same < max(len(chosen), len(rejected)):
            same = max(chosen.rfind(blank, 0, same) for blank in (" ", "\n", "\t")) + 1
        if not chosen[:same].strip():
            raise BadRecordError("there is no 'prompt', and chosen and rejected have no beginning in common")
        return chosen[:same].rstrip(), chosen[same:], rejected[same:]
    if not same:
        raise BadRecordError("there is no 'prompt', and chosen and rejected have no first message in common")
    return chosen[:same], chosen[same:], rejected[same:]


def _user_turn(messages: list[Any]) -> str:
    roles = [_role(message) for message in messages]
    if roles != ["user"]:
        raise BadRecordError(f"the prompt is not one user turn but: {', '.join(roles) or 'nothing'}")
    return _content(messages[0], images=True)


def _answer(messages: list[Any], name: str) -> str:
    roles = [_role(message) for message in messages]
    if roles != ["assistant"]:
        raise BadRecordError(f"'{name}' is not one assistant turn but: {', '.join(roles) or 'nothing'}")
    return _content(messages[0], images=False)


def _role(message: Any) -> str:
    return str(message.get("role")) if isinstance(message, Mapping) else shown(message)


def _content(message: Mapping[str, Any], *, images: bool) -> str:
    """The text of a message; of a prompt, one image part is what the chat template puts in and is passed over."""
    content = message.get("content")
    if not isinstance(content, list):
        if not isinstance(content, str):
            raise BadRecordError(f"a message's content is {type(content).__name__}, not text or a list of parts")
        return content
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in content]
    if kinds.count("image") > (1 if images else 0):
        raise BadRecordError(f"a {message.get('role')} message has {kinds.count('image')} images")
    texts = []
    for part, kind in zip(content, kinds, strict=True):
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind != "image":
            raise BadRecordError(f"a part of a message is neither an image nor a text: {shown(part)}")
    return "".join(texts)
