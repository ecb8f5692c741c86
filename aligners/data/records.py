"""From what a record says to a checked `PreferenceExample`, or the reason why it is none.

The placeholder `<image>`. Data sets made for LLaVA or LLaMA-Factory write it where the image belongs; here the chat template puts
the image in, at the family's place. One at the beginning or the end of the prompt stands for the image and is removed. Any other is
refused rather than escaped: tokenizers read it as the image's own token, so that the model would count more image tokens than it has
features and stop; written differently it would no longer say what its author wrote; and moved to the front it could mean another thing
("compare <image> with ..."). In a response there is nothing it could stand for.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from aligners.data.formats import BadRecordError, Said
from aligners.data.formats.base import shown
from harness.types import ImageRef, PreferenceExample, Region, Span

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
"""What tokenizers of known families read as an image's token."""


def example_from(said: Said, images: Mapping[str, ImageRef], record: Mapping[str, Any], name: str) -> PreferenceExample:
    """Check what a record says.

    Args:
        said: its texts.
        images: its images, found and looked at.
        record: for what is the same in all formats: chosen_spans, rejected_spans, objects.
        name: the example's id.

    Raises:
        BadRecordError: the record cannot be used.
    """
    prompt, chosen, rejected = checked_texts(said)
    return PreferenceExample(
        id=name,
        prompt=prompt,
        images=images,
        responses={"chosen": chosen, "rejected": rejected},
        corrections=_corrections(record, chosen, rejected),
        regions=_regions(record),
        source=said.source,
    )


def checked_texts(said: Said) -> tuple[str, str, str]:
    """Prompt, chosen and rejected response.

    Raises:
        BadRecordError: one is missing, empty, no text or holds an image's token; or chosen and rejected are the same.
    """
    prompt = without_placeholder(_text(said.prompt, "prompt"))
    chosen, rejected = _text(said.chosen, "chosen"), _text(said.rejected, "rejected")
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if found := _placeholder(text):
            raise BadRecordError(f"'{name}' holds a stray '{found}', which a tokenizer reads as an image")
    if chosen.strip() == rejected.strip():
        raise BadRecordError("chosen and rejected are identical")
    return prompt, chosen, rejected


def without_placeholder(prompt: str) -> str:
    """The prompt without the one placeholder that stands for the image.

    Raises:
        BadRecordError: there is another one, or nothing else.
    """
    bare = prompt.strip()
    if bare.startswith(_STANDS_FOR_IT):
        prompt = bare.removeprefix(_STANDS_FOR_IT).strip()
    elif bare.endswith(_STANDS_FOR_IT):
        prompt = bare.removesuffix(_STANDS_FOR_IT).strip()
    if found := _placeholder(prompt):
        raise BadRecordError(
            f"the prompt holds a stray '{found}'; one at its beginning or end stands for the image, this one does not"
        )
    if not _says_anything(prompt):
        raise BadRecordError("'prompt' is empty but for the image")
    return prompt


def _placeholder(text: str) -> str | None:
    return next((one for one in PLACEHOLDERS if one in text), None)


def _text(value: Any, name: str) -> str:
    if value is None:
        raise BadRecordError(f"there is no '{name}'")
    if not isinstance(value, str):
        raise BadRecordError(f"'{name}' is {type(value).__name__}, not text: {shown(value)}")
    if not _says_anything(value):
        raise BadRecordError(f"'{name}' is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecordError(f"'{name}' holds half of a character (position {error.start})") from None
    return value


def _says_anything(text: str) -> bool:
    """Whether there is a character that is neither blank nor invisible: templates trim what is not."""
    return any(not one.isspace() and unicodedata.category(one) not in ("Cc", "Cf") for one in text)


def _corrections(record: Mapping[str, Any], chosen: str, rejected: str) -> dict[str, tuple[Span, ...]] | None:
    if record.get("chosen_spans") is None and record.get("rejected_spans") is None:
        return None
    return {
        name: _spans(record.get(f"{name}_spans"), said, name)
        for name, said in (("chosen", chosen), ("rejected", rejected))
    }


def _spans(value: Any, said: str, name: str) -> tuple[Span, ...]:
    try:
        spans = tuple((int(start), int(end)) for start, end in (value if value is not None else ()))
    except (TypeError, ValueError):
        raise BadRecordError(f"'{name}_spans' is not a list of [start, end]") from None
    for start, end in spans:
        if not 0 <= start < end <= len(said):
            raise BadRecordError(
                f"'{name}_spans' has [{start}, {end}], outside of the {len(said)} characters of '{name}'"
            )
    return spans


def _regions(record: Mapping[str, Any]) -> tuple[Region, ...]:
    objects = record.get("objects")
    if objects is None:
        return ()
    try:
        found = tuple(Region(str(one["label"]), tuple(float(edge) for edge in one["box"])) for one in objects)  # type: ignore[arg-type]
    except (TypeError, ValueError, KeyError):
        raise BadRecordError("'objects' is not a list of {label, box: [left, top, right, bottom]}") from None
    for region in found:
        if len(region.box) != 4 or not (region.box[0] < region.box[2] and region.box[1] < region.box[3]):
            raise BadRecordError(f"the box of '{region.label}' is not [left, top, right, bottom]: {list(region.box)}")
    return found
