"""From one record of a file to a `PreferenceExample`, or the reason why it is none."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import BadInputError
from harness.types import ImageRef, PreferenceExample, Region, Span


class BadRecordError(Exception):
    """A record that cannot be used; the message is the reason."""


def from_record(record: Mapping[str, Any], fallback_id: str, folder: Path) -> PreferenceExample:
    """Read a record of RLAIF-V's, RLHF-V's or the plain form.

    Args:
        record: a row. RLAIF-V: image {bytes, path}, question, chosen, rejected. RLHF-V: the last three as JSON in `text`.
            Plain: image (a path relative to `folder`, base64 or a data URL), prompt, chosen, rejected; optional
            rejected_image. All: optional chosen_spans, rejected_spans, objects.
        fallback_id: used where the record has no `id` or `idx`.
        folder: the data file's folder; image paths must stay inside it.

    Raises:
        BadRecordError: the record cannot be used.
    """
    said = _said(record)
    prompt, chosen, rejected = (_text(said, *names) for names in (("prompt", "question"), ("chosen",), ("rejected",)))
    if "<image>" in prompt:
        raise BadRecordError("the prompt holds a stray '<image>'; the chat template puts the image in")
    if chosen.strip() == rejected.strip():
        raise BadRecordError("chosen and rejected are identical")
    images = {"original": _image(record.get("image"), folder)}
    if record.get("rejected_image") is not None:
        images["rejected"] = _image(record["rejected_image"], folder)
    for image in images.values():
        try:
            image.open()
        except BadInputError as error:
            raise BadRecordError(error.problem) from None
    name = record.get("id") if record.get("id") is not None else record.get("idx")
    return PreferenceExample(
        id=str(fallback_id if name is None else name),
        prompt=prompt,
        images=images,
        responses={"chosen": chosen, "rejected": rejected},
        corrections=_corrections(record, chosen, rejected),
        regions=_regions(record),
        source=str(record.get("origin_dataset") or record.get("ds_name") or ""),
    )


def _said(record: Mapping[str, Any]) -> Mapping[str, Any]:
    if "chosen" in record or "text" not in record:
        return record
    try:
        said = json.loads(record["text"])
    except (TypeError, ValueError):
        raise BadRecordError("the field 'text' is not JSON") from None
    if not isinstance(said, dict):
        raise BadRecordError("the field 'text' is not a JSON object")
    return said


def _text(said: Mapping[str, Any], *names: str) -> str:
    for name in names:
        if name in said and said[name] is not None:
            if not isinstance(said[name], str):
                raise BadRecordError(f"'{name}' is {type(said[name]).__name__}, not text")
            if not said[name].strip():
                raise BadRecordError(f"'{name}' is empty")
            return said[name]
    raise BadRecordError(f"there is no '{names[0]}'")


def _image(value: Any, folder: Path) -> ImageRef:
    if isinstance(value, Mapping):
        if value.get("bytes"):
            return ImageRef(data=bytes(value["bytes"]), name=str(value.get("path") or "image bytes"))
        value = value.get("path")
    if isinstance(value, bytes) and value:
        return ImageRef(data=value, name="image bytes")
    if not isinstance(value, str) or not value:
        raise BadRecordError("there is no image")
    if value.startswith("data:"):
        return _decoded(value.partition(",")[2])
    if "://" in value:
        raise BadRecordError(f"the image is a URL ({value[:60]}); download it and name the file")
    path = (folder / value).resolve()
    if path.is_relative_to(folder.resolve()) and path.is_file():
        return ImageRef(path=path, name=value)
    if len(value) > 256 and "." not in value:
        return _decoded(value)
    if not path.is_relative_to(folder.resolve()):
        raise BadRecordError(f"the image path leaves the data folder: {value[:100]}")
    raise BadRecordError(f"the image file does not exist: {value[:100]}")


def _decoded(text: str) -> ImageRef:
    try:
        return ImageRef(data=base64.b64decode(text, validate=True), name="base64 image")
    except (binascii.Error, ValueError):
        raise BadRecordError("the image is neither a file nor valid base64") from None


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
