"""Control tokens in texts: one rule for training, for `data check`, and for every backend.

A tokenizer takes the words of a control token, wherever they stand, for the token itself: `</s>` inside of an answer ends it, `<image>`
inside of a question is a second image. What a text's author meant as words cannot be told from what he meant as control, nor can all
backends be made to take it as words (an endpoint does with a text what it likes). So a text that holds one is refused, everywhere, with
the token's name: in preference data (`align`, `data check`), in questions (`ask`, `eval`), before anything is started on it.

Two lists are looked through: the control tokens of the model itself, where its processor is at hand; and those that common families share,
whatever the model, since an endpoint's own are not known here and a preference set is used with more than one model.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping
from typing import Any

from harness.core.errors import BadInputError

COMMON = re.compile(
    r"</?s>|<(?:bos|eos|pad|unk|image|video|audio|image_soft_token|start_of_turn|end_of_turn|start_of_image|end_of_image|"
    r"end_of_utterance|fake_token_around_image|global-img)>|<\|[A-Za-z][A-Za-z0-9_ .-]{0,40}\|>|\[/?INST\]|<<?/?SYS>>|"
    r"\[(?:IMG|IMG_BREAK|IMG_END|AVAILABLE_TOOLS|TOOL_CALLS)\]|<｜[^<>｜]{1,40}｜>"
)
"""Control tokens of LLaMA, Mistral, Gemma, Qwen, ChatML, SmolVLM and DeepSeek, and LLaVA's placeholders of images."""

_patterns: weakref.WeakKeyDictionary[Any, re.Pattern[str]] = weakref.WeakKeyDictionary()
"""Of the processors that were asked about. Not kept in the processor, which saves what it holds."""
REMEDY = "remove it from the text, or rephrase it"


def control_in(text: str, processor: Any = None) -> str | None:
    """The first control token in a text, or None.

    Args:
        text: a question or an answer.
        processor: of the model that is to read it; without, the common control tokens only.
    """
    if common := COMMON.search(text):
        return common.group()
    if processor is None:
        return None
    own = _own(processor).search(text)
    return own.group() if own else None


def refuse_control(texts: Mapping[str, str], processor: Any = None, where: str | None = None) -> None:
    """Refuse texts that hold a control token.

    Args:
        texts: what each is to the user -> the text.
        processor: as in `control_in`.
        where: the record, the suite and its item.

    Raises:
        BadInputError: one does; with the token, and which text it is in.
    """
    for name, text in texts.items():
        if token := control_in(text, processor):
            raise BadInputError(
                f"{name} contains '{token}', which is a control token for a model, not text",
                where=where,
                remedy=REMEDY,
            )


def _own(processor: Any) -> re.Pattern[str]:
    """A pattern of the model's own control tokens."""
    pattern = _patterns.get(processor)
    if pattern is None:
        tokenizer = processor.tokenizer
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        placeholders = {
            getattr(processor, name, None) for name in ("image_token", "video_token", "boi_token", "eoi_token")
        }
        tokens = (
            special | set(tokenizer.all_special_tokens) | {token for token in placeholders if isinstance(token, str)}
        )
        # Longest first, so that the token that is named is the one that the tokenizer would take.
        longest = sorted((token for token in tokens if token.strip()), key=len, reverse=True)
        pattern = _patterns[processor] = re.compile("|".join(map(re.escape, longest)) or r"(?!)")
    return pattern
