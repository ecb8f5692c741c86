"""The plain format: one record per pair, with self-explanatory keys."""

from __future__ import annotations

from aligners.preferences.formats.base import Format, Record, Said, image_of, is_text
from aligners.preferences.formats.turns import Asked


class Plain(Format):
    """`image` (a path relative to the file, base64 or a data URL), `prompt`, `chosen`, `rejected`; optional `id`, `rejected_image`,
    `system`, and `history`, a list of [question, answer]."""

    name, title = "plain", "plain records"
    needs = "image, prompt, chosen, rejected"
    columns_read = frozenset({"prompt", "chosen", "rejected", "source", "system", "history"})

    def recognises(self, sample: Record) -> bool:
        """See `Format`."""
        return "image" in sample and is_text(sample, "prompt", "chosen", "rejected")

    def said(self, record: Record) -> Said:
        """See `Format`."""
        asked = Asked(record.get("prompt")).after(record.get("system"), record.get("history"))
        return Said(
            asked.prompt,
            record.get("chosen"),
            record.get("rejected"),
            image=image_of(record),
            source=record.get("source"),
            history=asked.history,
        )
