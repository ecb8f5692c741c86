"""Control tokens in texts: one rule for training, for `data check`, and for every backend.

A tokenizer reads the text of a control token as the token itself, anywhere: `</s>` in an answer ends it, `<image>` in a question is a
second image. Whether the author meant text or control is unknown, and not all backends can be made to read it as text (an endpoint's
tokenizer is out of reach). So a text that contains one is refused everywhere, with the token's name: in preference data (`align`, `data
check`), in questions (`ask`, `eval`), before any work starts.

Two lists are searched: the control tokens of the model itself, if its processor is available; and those of common families for every
model, because an endpoint's own are unknown, and a preference set is used with several models.
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
"""Patterns by processor; not stored in the processor, which would save them."""
REMEDY = "remove it from the text, or rephrase it"


def control_in(text: str, processor: Any = None) -> str | None:
    """The first control token in a text, or None.

    Args:
        text: a question or an answer.
        processor: of the model that will read it; None: only the common control tokens.
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
        texts: the user's name for each text -> the text.
        processor: as in `control_in`.
        where: the record, or the suite and its item, for the message.

    Raises:
        BadInputError: one does; the message has the token and the name of the text.
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
        # Longest first, so that the error names the token that the tokenizer would choose.
        longest = sorted((token for token in tokens if token.strip()), key=len, reverse=True)
        pattern = _patterns[processor] = re.compile("|".join(map(re.escape, longest)) or r"(?!)")
    return pattern
