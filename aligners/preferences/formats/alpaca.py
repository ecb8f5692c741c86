"""LLaMA-Factory's Alpaca preference format, with an image.

Source: LLaMA-Factory's data/README.md: `instruction` and `input` (optional), which together are the prompt, one below the other;
`chosen`, `rejected` (texts); `images`; `system`, and `history` (a list of [question, answer]). `dataset_info.json` next to the file may
name other columns; this is the default form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from aligners.preferences.formats.base import (
    BadRecordError,
    Format,
    Record,
    Said,
    has_image,
    image_of,
    is_text,
    says_something,
)
from aligners.preferences.formats.described import entry_of
from aligners.preferences.formats.turns import Asked
from harness.core.typed import kind_of

_COLUMNS = {
    **{"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected", "images": "images"},
    **{"system": "system", "history": "history"},
}


@dataclass(frozen=True)
class Alpaca(Format):
    """One image, an instruction with an optional input, two answers."""

    columns: Mapping[str, str] = field(default_factory=lambda: _COLUMNS)

    name: ClassVar[str] = "alpaca"
    title: ClassVar[str] = "LLaMA-Factory's Alpaca preference format"
    needs: ClassVar[str] = "instruction, input (optional), chosen, rejected, images"

    @property
    def columns_read(self) -> frozenset[str]:  # type: ignore[override]
        """See `Format`."""
        return frozenset(self.columns.values())

    def for_file(self, file: Path) -> Alpaca:
        """The column names of `dataset_info.json`, if one describes the file (`described.entry_of`)."""
        entry = entry_of(file, "alpaca")
        return replace(self, columns={**_COLUMNS, **entry.columns}) if entry else self

    def taken(self, sample: Record) -> Mapping[str, str]:
        """See `Format`."""
        prompt = self.columns["prompt"]
        if says_something(sample.get(self.columns["query"])):
            prompt = f"{prompt} and {self.columns['query']}"
        return {"prompt": prompt, "chosen": self.columns["chosen"], "rejected": self.columns["rejected"]}

    def recognises(self, sample: Record) -> bool:
        """See `Format`."""
        names = [self.columns[name] for name in ("prompt", "chosen", "rejected")]
        return is_text(sample, *names) and (has_image(sample) or sample.get(self.columns["images"]) is not None)

    def said(self, record: Record) -> Said:
        """See `Format`."""
        instruction, given = record.get(self.columns["prompt"]), record.get(self.columns["query"])
        if says_something(given):
            if not isinstance(given, str) or not isinstance(instruction, str):
                raise BadRecordError(f"'{self.columns['query']}' is {kind_of(given)}, not a text")
            instruction = f"{instruction}\n{given}" if instruction.strip() else given
        images = record.get(self.columns["images"]) if self.columns["images"] != "images" else None
        asked = Asked(instruction).after(record.get(self.columns["system"]), record.get(self.columns["history"]))
        return Said(
            asked.prompt,
            record.get(self.columns["chosen"]),
            record.get(self.columns["rejected"]),
            image=images if images is not None else image_of(record),
            history=asked.history,
        )
