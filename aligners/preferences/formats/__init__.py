"""The formats of preference data, and recognising a file's format by its columns, not by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aligners.preferences.cells import SourceCell
from aligners.preferences.formats.alpaca import Alpaca
from aligners.preferences.formats.base import PROMPTS, BadRecordError, Format, Record, Said, has_image, says_something
from aligners.preferences.formats.conversations import RankedAnswers, TwoConversations
from aligners.preferences.formats.plain import Plain
from aligners.preferences.formats.published import RlaifV, RlhfV
from aligners.preferences.formats.rated import RatedAnswers
from aligners.preferences.formats.sharegpt import ShareGpt
from aligners.preferences.formats.swift import Swift
from aligners.preferences.formats.trl import Trl, other_texts
from aligners.preferences.options import DataOptions
from harness.core.errors import BadInputError, UnknownNameError

FORMATS: Mapping[str, Format] = {
    form.name: form
    for form in (
        RlaifV(),
        RlhfV(),
        ShareGpt(),
        Swift(),
        Alpaca(),
        TwoConversations(),
        RankedAnswers(),
        RatedAnswers(),
        Trl(),
        Plain(),
    )
}
"""By name. The first that recognises a file's columns reads it."""
_LISTED = 40

__all__ = ["FORMATS", "BadRecordError", "Format", "Record", "Said", "detect", "find_format", "first_values"]


def find_format(name: str) -> Format:
    """A format by its name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in FORMATS:
        raise UnknownNameError("format of preference data", name, FORMATS)
    return FORMATS[name]


def detect(
    file: Path, records: Iterable[Record], named: Format | None = None, options: DataOptions | None = None
) -> Format:
    """The format of a file.

    Args:
        file: the file, for descriptions next to it and for messages.
        records: some of its records, with columns renamed by the options.
        named: the format that the user named, which is then only checked.
        options: what the user says about its columns.

    Raises:
        BadInputError: no known format has such columns, or the named format has others; or two columns may be the prompt.
    """
    sample = first_values(records)
    options = options or DataOptions()
    candidates = [one.for_file(file) for one in ([named] if named else FORMATS.values())]
    for one in candidates:
        if one.recognises(sample):
            kind = one.for_columns(sample)
            if not named:
                _only_prompt(sample, kind, options, file)
            return kind
    raise _unknown(sample, candidates, named, file)


def first_values(records: Iterable[Record]) -> dict[str, Any]:
    """Every column of the records with its first value that is not null."""
    sample: dict[str, Any] = {}
    for record in records:
        for column, value in record.items():
            if sample.get(column) is None:
                sample[column] = value
    return sample


def _only_prompt(sample: Record, kind: Format, options: DataOptions, file: Path) -> None:
    """Check that no other column may be the prompt.

    Raises:
        BadInputError: one may.
    """
    read = [name for name in PROMPTS if name in kind.reads and says_something(sample.get(name))]
    rivals = [name for name in PROMPTS if name not in kind.reads and says_something(sample.get(name))]
    if read and rivals and not set(read) & set(options.columns):
        raise BadInputError(
            f"two columns could be the prompt, '{read[0]}' and '{rivals[0]}'",
            where=str(file),
            remedy=f"choose one: --columns {read[0]}={rivals[0]}, or {read[0]}={read[0]}",
        )


def _unknown(sample: Record, candidates: Iterable[Format], named: Format | None, file: Path) -> BadInputError:
    kinds = [f"{name} ({_kind(value)})" for name, value in sample.items()]
    columns = (
        ", ".join(kinds[:_LISTED]) + (f" and {len(kinds) - _LISTED} more" if len(kinds) > _LISTED else "") or "none"
    )
    if "completion" in sample and "label" in sample:
        return BadInputError(
            "these are unpaired rows ('completion' and 'label'), and no method here learns from a single answer",
            where=str(file),
            remedy="give pairs; for KTO, which also has a form for pairs: --method dpo --set method.loss=kto",
        )
    others = [name for name in other_texts(sample) if name != "prompt"]
    if has_image(sample) and {"chosen", "rejected"} <= set(sample) and others and "prompt" not in sample:
        return BadInputError(
            f"there is no column 'prompt'; the prompt may be in {' or '.join(map(repr, others[:5]))}. The columns are: {columns}",
            where=str(file),
            remedy=f"choose the column: --columns prompt={others[0]}",
        )
    if named:
        return BadInputError(
            f"these are not the columns of the format {named.name}, which has {named.needs}; they are: {columns}",
            where=str(file),
            remedy="leave out the format, so that it is recognised by the columns, or map them: --columns prompt=query,image=picture",
        )
    return BadInputError(
        f"no known format of preference data has these columns: {columns}",
        where=str(file),
        remedy="map them (--columns prompt=query,image=picture); known: "
        + "; ".join(f"{one.name} ({one.needs})" for one in candidates),
    )


def _kind(value: Any) -> str:
    """The type of a column's values, as a word."""
    kinds = {str: "text", list: "list", dict: "object", type(None): "null", int: "number", float: "number"}
    return kinds.get(type(value), "image" if isinstance(value, SourceCell) else type(value).__name__)
