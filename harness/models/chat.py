"""Token ids of answers as the family's chat template writes them, and of prompts by their image's size.

An answer's ids depend on the text before it. SmolVLM's template, for example, writes a blank between "Assistant:" and the answer, and
the model generates that blank; a byte-level tokenizer then encodes the answer with another first token than the answer alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.core.errors import BadInputError
from harness.core.types import Turn
from harness.models.messages import messages_of, with_answer
from harness.models.processors import prompt_inputs, prompt_text, template_text, text_options

_PROBE, _ANSWER = "probe", "harness-probe"


class AnswerEncoder:
    """Encodes answers as they follow a prompt; the end token (`end`) is not added."""

    def __init__(self, processor: Any) -> None:
        """Find what the template writes between prompt and answer, and after the answer.

        Raises:
            BadInputError: the template writes a conversation that does not begin with its own prompt, or changes the answer.
        """
        self._tokenizer, self._options = processor.tokenizer, text_options(processor)
        before = prompt_text(processor, _PROBE)
        self.separator, after = _around_answer(processor, before)
        """Text between prompt and answer: "" or a blank."""
        self.end = self._first_special(after)
        """Id of the token that ends a turn: the template's, or the tokenizer's if the template writes none."""
        self._before = before + self.separator
        self._length = len(self._ids(before))

    def encode(self, answer: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of an answer, and the character span of each ([start, end); a blank before the answer has none)."""
        ids, offsets = self._without_end(
            self._tokenizer(self._before + answer, return_offsets_mapping=True, **self._options)
        )
        shift = len(self._before)
        spans = [(max(0, start - shift), max(0, end - shift)) for start, end in offsets[self._length :]]
        return ids[self._length :], spans

    def context_tokens(self, context: str, answers: Sequence[Sequence[int]]) -> int:
        """Number of tokens of a context with which all answers begin; 0 without one.

        A token that has characters of the context and of what continues it belongs to the continuation.

        Args:
            context: the text that the answers continue.
            answers: ids of the whole answers, from `encode`.
        """
        if not context:
            return 0
        alone = self.encode(context.rstrip())[0]
        return min(_agreement(alone, ids) for ids in answers)

    def _first_special(self, text: str) -> int:
        added = self._tokenizer.added_tokens_decoder
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        special = (token for token in ids if token in added and added[token].special)
        return int(next(special, self._tokenizer.eos_token_id))

    def _ids(self, text: str) -> list[int]:
        return self._without_end(self._tokenizer(text, return_offsets_mapping=True, **self._options))[0]

    def _without_end(self, found: Any) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and offsets without the end token that some tokenizers append to every text."""
        ids, offsets = list(found["input_ids"]), list(found["offset_mapping"])
        added = bool(ids) and ids[-1] == self._tokenizer.eos_token_id and offsets[-1][0] == offsets[-1][1]
        return (ids[:-1], offsets[:-1]) if added else (ids, offsets)


def _agreement(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning of two sequences."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _around_answer(processor: Any, before: str) -> tuple[str, str]:
    """What the template writes between a prompt (`before`) and its answer, and after the answer.

    Raises:
        BadInputError: the template writes a conversation that does not begin with its own prompt, or changes the answer.
    """
    turns = with_answer(processor, messages_of(processor, _PROBE, {"type": "image"}), _ANSWER)
    answered: str = processor.apply_chat_template(turns, tokenize=False)
    first, answer, after = answered.partition(_ANSWER)
    if answer and first.startswith(before):
        return first.removeprefix(before), after
    # LLaVA-OneVision's conversations have a blank before the line break with which its prompts end. Questions are asked with the
    # prompt, so what is trained follows the prompt.
    if answer and "".join(first.split()) == "".join(before.split()):
        return "", after
    raise BadInputError(
        "the chat template formats an answered question differently from a question without an answer",
        where=type(processor).__name__,
        remedy="use the checkpoint's own chat_template.jinja",
    )


def first_tokens(processor: Any, answers: Sequence[str]) -> list[int]:
    """The token of each answer as it follows a prompt.

    Raises:
        BadInputError: an answer is several tokens long, so that its likelihood is not that of the next token, or two are the same token.
    """
    encoder = AnswerEncoder(processor)
    encoded = [encoder.encode(answer)[0] for answer in answers]
    for answer, ids in zip(answers, encoded, strict=True):
        if len(ids) != 1:
            raise BadInputError(
                f"the likelihood of '{answer}' cannot be read off the next token: it is {len(ids)} tokens long for this model",
                where=type(processor.tokenizer).__name__,
                remedy="let the model write its answer: --set SUITE.answer=text",
            )
    tokens = [ids[0] for ids in encoded]
    if len(set(tokens)) < len(tokens):
        raise BadInputError(f"{' and '.join(answers)} are the same token for this model")
    return tokens


class PromptLengths:
    """Number of tokens of a prompt with its image expanded, which depends only on the image's size."""

    def __init__(self, processor: Any) -> None:
        self._processor, self._options = processor, text_options(processor)
        self._bare = len(self._ids(_PROBE))
        self._expanded: dict[tuple[int, int], int] = {}

    def length(self, prompt: str, size: tuple[int, int] | None, history: Sequence[Turn] = ()) -> int:
        """Tokens of image, earlier turns and prompt in the chat template; `size` is (width, height) of the upright image, None without
        an image.

        Raises:
            BadInputError: the template does not write a turn of the history.
        """
        if size is None:
            return len(self._ids(prompt, image=False, history=history))
        return len(self._ids(prompt, history=history)) + self.image_tokens(size)

    def image_tokens(self, size: tuple[int, int]) -> int:
        """Number of tokens that an image of this size adds to its placeholder in the template."""
        if size not in self._expanded:
            from PIL import Image

            blank = Image.new("RGB", size)
            self._expanded[size] = prompt_inputs(self._processor, _PROBE, blank)["input_ids"].shape[1] - self._bare
        return self._expanded[size]

    def _ids(self, prompt: str, *, image: bool = True, history: Sequence[Turn] = ()) -> list[int]:
        text = template_text(self._processor, prompt, image=image, history=history)
        return list(self._processor.tokenizer(text, **self._options)["input_ids"])
