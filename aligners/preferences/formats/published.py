"""RLAIF-V-Dataset and RLHF-V-Dataset as their authors publish them: Parquet with the image's bytes.

RLHF-V, and RLAIF-V's first release, have the texts as JSON in one column.

Source: the data cards of openbmb/RLAIF-V-Dataset and openbmb/RLHF-V-Dataset: ds_name, image {bytes, path}, question, chosen,
rejected (or text: a JSON object of these three), origin_dataset, origin_split, idx, image_path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aligners.preferences.formats.base import PROVENANCE, BadRecordError, Format, Record, Said, is_text
from harness.core.errors import BadInputError
from harness.core.reading import parse_json

_TEXTS = ("question", "chosen", "rejected")
_OWN = frozenset({*_TEXTS, "text"}) | PROVENANCE - {"source"}


class RlaifV(Format):
    """The texts are in separate columns; if these are empty in a record, in `text`."""

    name, title = "rlaif-v", "RLAIF-V-Dataset as published"
    needs = "image, question, chosen, rejected"
    columns_read = _OWN

    def taken(self, sample: Record) -> Mapping[str, str]:
        """See `Format`."""
        return {"prompt": "question", "chosen": "chosen", "rejected": "rejected"}

    def recognises(self, sample: Record) -> bool:
        """See `Format`."""
        return "image" in sample and is_text(sample, *_TEXTS)

    def said(self, record: Record) -> Said:
        """See `Format`."""
        in_columns = any(record.get(name) is not None for name in _TEXTS)
        return _said(record, record if in_columns or record.get("text") is None else _texts(record))


class RlhfV(Format):
    """The texts are JSON in `text`."""

    name, title = "rlhf-v", "RLHF-V-Dataset as published"
    needs = "image, text (JSON: question, chosen, rejected)"
    columns_read = _OWN - set(_TEXTS)

    def taken(self, sample: Record) -> Mapping[str, str]:
        """See `Format`."""
        return {"prompt": "text.question", "chosen": "text.chosen", "rejected": "text.rejected"}

    def recognises(self, sample: Record) -> bool:
        """See `Format`."""
        if "image" not in sample or not is_text(sample, "text"):
            return False
        try:
            return set(_texts(sample)) >= set(_TEXTS)
        except BadRecordError:
            return False

    def said(self, record: Record) -> Said:
        """See `Format`."""
        return _said(record, _texts(record))


def _texts(record: Record) -> Mapping[str, Any]:
    value = record.get("text")
    try:
        texts = parse_json(value, "field 'text'", "") if isinstance(value, str) else None
    except BadInputError as error:
        raise BadRecordError(error.problem) from None
    if not isinstance(texts, dict):
        raise BadRecordError("the field 'text' is not a JSON object")
    return texts


def _said(record: Record, texts: Mapping[str, Any]) -> Said:
    return Said(
        texts.get("question"),
        texts.get("chosen"),
        texts.get("rejected"),
        image=record.get("image"),
        source=record.get("origin_dataset") or record.get("ds_name"),
    )
