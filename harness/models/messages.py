"""Conversations as messages, in the form that a family's chat template takes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence, Set
from typing import Any

from harness.core.errors import BadInputError, shown
from harness.core.types import Turn

Messages = list[dict[str, Any]]
_PLAIN: tuple[Set[str], ...] = (set(), {"assistant"}, {"system"}, {"system", "assistant"})
"""Roles whose content is a plain text and not a list of parts; the first choice with which a template writes every turn is taken."""


def messages_of(
    processor: Any, prompt: str, picture: Mapping[str, Any] | None, history: Sequence[Turn] = ()
) -> Messages:
    """A conversation that ends with a question, as the chat template takes it.

    Args:
        processor: has the template.
        prompt: the last turn.
        picture: the part of a message that stands for the image, which goes into the turn that has it (by default the last); None: there
            is no image.
        history: the turns before the prompt.

    Raises:
        BadInputError: the template does not write one of the turns. Not every template has a system turn.
    """
    turns = [*history, Turn("user", prompt)]
    holder = next((place for place, turn in enumerate(turns) if turn.has_image), len(turns) - 1)

    def built(plain: Set[str]) -> Messages:
        """The messages; the content of the roles in `plain` is a text, that of others a list of parts."""
        return [
            {"role": turn.role, "content": turn.text}
            if turn.role in plain
            else {
                "role": turn.role,
                "content": [*([picture] if picture and place == holder else []), {"type": "text", "text": turn.text}],
            }
            for place, turn in enumerate(turns)
        ]

    if not history:
        return built(set())
    problems = []
    for plain in _PLAIN:
        messages = built(plain)
        if not (problem := _problem(processor, messages, turns)):
            return messages
        problems.append(problem)
    raise BadInputError(
        f"the model's chat template does not write this conversation: {problems[0]}",
        where=type(processor).__name__,
        remedy="leave such records out (--on-error skip), write the turn's text into the question, or choose another model",
    )


def with_answer(processor: Any, messages: Messages, answer: str) -> Messages:
    """A question's messages and its answer: GLM-4.1V's template takes an answer only as a text, and would print a list of parts as
    Python writes it.
    """
    parts = [{"type": "text", "text": answer}]
    as_parts = [*messages, {"role": "assistant", "content": parts}]
    as_text = [*messages, {"role": "assistant", "content": answer}]
    plain = any(isinstance(message["content"], str) for message in messages)
    return as_text if plain or str(parts) in processor.apply_chat_template(as_parts, tokenize=False) else as_parts


def _problem(processor: Any, messages: Messages, turns: Sequence[Turn]) -> str:
    """What the template does not write of a conversation; "" if it writes every turn in its role and order, and the image."""
    from jinja2 import TemplateError

    def written(changed: Messages) -> str:
        text: str = processor.apply_chat_template(changed, add_generation_prompt=True, tokenize=False)
        return text

    try:
        text = written(messages)
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:  # raised by the template
        return f"it says {shown(str(error), 200)}"
    place = 0
    for message, turn in zip(messages, turns, strict=True):
        words = turn.text.strip()
        # A system turn may stand within the question that follows it, so only the others have an order.
        start = text.find(words, place if turn.role != "system" else 0)
        if start < 0 or (
            isinstance(message["content"], list) and turn.role != "user" and str(message["content"]) in text
        ):
            return f"it leaves out the {turn.role} turn, {shown(words)}"
        place = place if turn.role == "system" else start + len(words)
    if turns[0].role == "system":
        for role, name in (("assistant", "an answer"), ("user", "a question")):
            with contextlib.suppress(TemplateError):  # two turns of one role after each other
                if text == written([messages[0] | {"role": role}, *messages[1:]]):
                    return f"it has no system turn, and writes it as {name}"
    bare = [message | {"content": _without_image(message["content"])} for message in messages]
    return "it leaves out the image" if bare != messages and text == written(bare) else ""


def _without_image(content: Any) -> Any:
    return [part for part in content if part["type"] != "image"] if isinstance(content, list) else content
