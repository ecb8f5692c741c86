"""From a record's values to a checked `PreferenceExample`, or the reason why it is invalid.

The placeholder `<image>`. Data sets made for LLaVA or LLaMA-Factory write it where the image belongs; here the chat template puts
the image in, at the family's place. A placeholder at the beginning or the end of the prompt is removed. Any other is refused and not
escaped: tokenizers read it as an image token, so the model would count more image tokens than features and fail; escaping would change
the text; and moving it to the front could change its meaning ("compare <image> with ..."). In a response it has no meaning.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aligners.preferences.extras import extras, turns_of_column
from aligners.preferences.formats import BadRecordError, Said
from aligners.preferences.formats.base import COMMON, UNSAID, says_something, shown
from harness.core.typed import is_finite, kind_of
from harness.core.types import ImageRef, PreferenceExample, Region, Span, Turn

_LONGEST_NAME = 500
"""Maximum number of characters of an id or a source's name."""
_STANDS_FOR_IT = "<image>"
PLACEHOLDERS = (
    _STANDS_FOR_IT,
    "<image_soft_token>",
    "<|image|>",
    "<|image_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "[IMG]",
)
"""Texts that tokenizers of known families read as an image token."""


def example_from(said: Said, images: Mapping[str, ImageRef], record: Mapping[str, Any], name: str) -> PreferenceExample:
    """Check a record's values.

    Args:
        said: its values.
        images: its images, found and checked.
        record: the record, for the columns of all formats: standard_response, chosen_spans, rejected_spans, objects, and those of
            `extras`.
        name: the example's id.

    Raises:
        BadRecordError: the record cannot be used.
    """
    prompt, chosen, rejected = checked_texts(said)
    standard = _standard(record)
    history = checked_history(said, record.get("earlier_turns"))
    return PreferenceExample(
        id=name,
        prompt=prompt,
        images=images,
        responses={"chosen": chosen, "rejected": rejected, **({"standard": standard} if standard else {})},
        corrections=_corrections(record, chosen, rejected),
        regions=_regions(record),
        source=_label(said.source, "the source"),
        history=history,
        **extras(record, {"chosen": chosen, "rejected": rejected}),
    )


def name_of(record: Mapping[str, Any]) -> str | None:
    """The example's id: the record's `id`, or its number `idx`; None if it has neither.

    Raises:
        BadRecordError: one is neither a text nor a whole number.
    """
    for key in ("id", "idx"):
        value = record.get(key)
        if value is None or value != value:  # NaN is how tables write a missing number
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or not says_something(value):
            raise BadRecordError(f"'{key}' is {kind_of(value)}, not a name: {shown(value)}")
        return _label(str(value), f"'{key}'")
    return None


def _label(value: Any, what: str) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else shown(value)
    if len(text) > _LONGEST_NAME:
        raise BadRecordError(f"{what} has {len(text):,} characters; a name has up to {_LONGEST_NAME}")
    return _whole(text, what)


def check_meaning(record: Mapping[str, Any], reads: frozenset[str]) -> None:
    """Check that no unread column changes the meaning of the preference.

    Args:
        record: all its columns.
        reads: the columns that the format reads.

    Raises:
        BadRecordError: one does.
    """
    for column, what in UNSAID.items():
        if column not in reads and column not in COMMON and says_something(value := record.get(column)):
            raise BadRecordError(
                f"the record has {what}, which an example cannot contain: '{column}' is {shown(value)}"
            )


def checked_texts(said: Said) -> tuple[str, str, str]:
    """Prompt, chosen and rejected response.

    Raises:
        BadRecordError: one is missing, empty, not a text, or contains an image token; or chosen and rejected are the same.
    """
    prompt = without_placeholder(_text(said.prompt, "prompt"), "the prompt")
    chosen, rejected = _text(said.chosen, "chosen"), _text(said.rejected, "rejected")
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if found := _placeholder(text):
            raise BadRecordError(f"'{name}' contains a stray '{found}', which a tokenizer reads as an image")
    if chosen.strip() == rejected.strip():
        raise BadRecordError("chosen and rejected are identical")
    return prompt, chosen, rejected


def _standard(record: Mapping[str, Any]) -> str | None:
    """The record's reference answer beside the two that are compared; None if it has none.

    Raises:
        BadRecordError: it is not a text, or contains an image token.
    """
    if not says_something(value := record.get("standard_response")):
        return None
    text = _text(value, "standard_response")
    if found := _placeholder(text):
        raise BadRecordError(f"'standard_response' contains a stray '{found}', which a tokenizer reads as an image")
    return text


def checked_history(said: Said, column: Any = None) -> tuple[Turn, ...]:
    """The turns before the prompt. The image belongs to the user's turn that has its placeholder or an image part; if none has, to the
    first one, as in TRL.

    Args:
        said: the record's values.
        column: the record's `earlier_turns`.

    Raises:
        BadRecordError: a turn is empty, contains a stray image token, or two have an image; or the column has another form.
    """
    history, default_to_first = said.history, True
    if says_something(column):
        if history:
            raise BadRecordError("the record has earlier turns both in 'earlier_turns' and in another column")
        history, default_to_first = turns_of_column(column), False
    turns = []
    for number, turn in enumerate(history, 1):
        what = f"turn {number} ({turn.role})"
        text = _text(turn.text, what)
        if turn.role == "user":
            text = without_placeholder(text, what)
        elif found := _placeholder(text):
            raise BadRecordError(f"{what} contains a stray '{found}', which a tokenizer reads as an image")
        turns.append(replace(turn, text=text, has_image=turn.has_image or _stands_here(turn.text)))
    marked = sum(turn.has_image for turn in turns) + (said.image_in_prompt or _stands_here(said.prompt))
    if turns and marked > 1:
        raise BadRecordError(f"{marked} turns have an image; a conversation can have only one")
    first = next((place for place, turn in enumerate(turns) if turn.role == "user"), None)
    if not marked and default_to_first and first is not None:
        turns[first] = replace(turns[first], has_image=True)
    return tuple(turns)


def _stands_here(text: Any) -> bool:
    """Whether a text has the placeholder of its turn's image."""
    return isinstance(text, str) and (text.strip().startswith(_STANDS_FOR_IT) or text.strip().endswith(_STANDS_FOR_IT))


def without_placeholder(prompt: str, what: str = "the prompt") -> str:
    """A question without the one placeholder that stands for the image.

    Raises:
        BadRecordError: there is a further placeholder, or no other text.
    """
    bare = prompt.strip()
    if bare.startswith(_STANDS_FOR_IT):
        prompt = bare.removeprefix(_STANDS_FOR_IT).strip()
    elif bare.endswith(_STANDS_FOR_IT):
        prompt = bare.removesuffix(_STANDS_FOR_IT).strip()
    if found := _placeholder(prompt):
        raise BadRecordError(
            f"{what} contains a stray '{found}'; only one at its beginning or end stands for the image"
        )
    if not _says_anything(prompt):
        raise BadRecordError(f"{what} is empty except for the image")
    return prompt


def _placeholder(text: str) -> str | None:
    return next((one for one in PLACEHOLDERS if one in text), None)


def _text(value: Any, name: str) -> str:
    if value is None:
        raise BadRecordError(f"there is no '{name}'")
    if not isinstance(value, str):
        raise BadRecordError(f"'{name}' is {kind_of(value)}, not text: {shown(value)}")
    if not _says_anything(value):
        raise BadRecordError(f"'{name}' is empty")
    return _whole(value, f"'{name}'")


def _whole(text: str, what: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecordError(f"{what} contains half of a character (position {error.start})") from None
    return text


def _says_anything(text: str) -> bool:
    """Whether a text has a character that is neither blank nor invisible; templates strip such characters."""
    return any(not one.isspace() and unicodedata.category(one) not in ("Cc", "Cf") for one in text)


def _corrections(record: Mapping[str, Any], chosen: str, rejected: str) -> dict[str, tuple[Span, ...]] | None:
    if record.get("chosen_spans") is None and record.get("rejected_spans") is None:
        return None
    return {
        name: _spans(record.get(f"{name}_spans"), said, name)
        for name, said in (("chosen", chosen), ("rejected", rejected))
    }


def _spans(value: Any, said: str, name: str) -> tuple[Span, ...]:
    if value is None:
        return ()
    pairs: Any = value if isinstance(value, (list, tuple)) else [None]
    if any(not isinstance(one, (list, tuple)) or len(one) != 2 or not all(map(_is_place, one)) for one in pairs):
        raise BadRecordError(f"'{name}_spans' is not a list of [start, end] with integers: {shown(value)}")
    spans = tuple((int(start), int(end)) for start, end in pairs)
    for start, end in spans:
        if not 0 <= start < end <= len(said):
            raise BadRecordError(
                f"'{name}_spans' has [{shown(start)}, {shown(end)}], outside the {len(said)} characters of '{name}'"
            )
    return spans


def _is_place(value: Any) -> bool:
    """Whether a value is a whole number. (In columns with empty cells, tables write it as 3.0.)"""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def _regions(record: Mapping[str, Any]) -> tuple[Region, ...]:
    objects = record.get("objects")
    if objects is None:
        return ()
    form = "'objects' is not a list of {label, box: [left, top, right, bottom]}"
    if not isinstance(objects, (list, tuple)):
        raise BadRecordError(f"{form}: {shown(objects)}")
    regions = []
    for entry in objects:
        label, box = (entry.get("label"), entry.get("box")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(label, str) or not isinstance(box, (list, tuple)):
            raise BadRecordError(f"{form}: {shown(entry)}")
        _whole(label, "a label in 'objects'")
        numbers = len(box) == 4 and all(
            isinstance(edge, (int, float)) and not isinstance(edge, bool) and is_finite(edge) for edge in box
        )
        if not numbers or not (box[0] < box[2] and box[1] < box[3]):
            raise BadRecordError(f"the box of '{shown(label)}' is not [left, top, right, bottom]: {shown(box)}")
        left, top, right, bottom = map(float, box)
        regions.append(Region(label, (left, top, right, bottom)))
    return tuple(regions)
