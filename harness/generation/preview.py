"""A page that shows pairs of a set: picture, both answers, and why the judge scored them so."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligners.preferences.set_folder import CONFIG, refuse_incomplete
from harness.core.errors import BadInputError
from harness.core.files import atomic_path, read_json
from harness.core.pages import render
from harness.core.types import ImageRef, Span
from harness.generation.generate import KIND
from harness.generation.rewrite import changed_spans

SIDE = 240
"""Longest side of a picture on the page, in pixels."""


def is_pair_set(folder: Path) -> bool:
    """Whether a folder has a set of generated pairs."""
    config = folder / CONFIG
    found = read_json(config, "configuration") if config.is_file() else None
    return isinstance(found, Mapping) and found.get("kind") == KIND


def preview_pairs(folder: Path, output: Path, count: int, seed: int = 0) -> int:
    """Write a page of `count` pairs, drawn by the seed, in their order; returns the number on it.

    Raises:
        BadInputError: the set is not complete, or the page is no .html file.
    """
    import pyarrow.parquet as pq

    if output.suffix != ".html":
        raise BadInputError(
            f"the page of pairs must be a .html file, not '{output.suffix}'", where=str(output), remedy="-o pairs.html"
        )
    refuse_incomplete(folder)
    files = [pq.ParquetFile(path) for path in sorted(folder.glob("*.parquet"))]
    total = sum(file.metadata.num_rows for file in files)
    chosen = set(random.Random(seed).sample(range(total), min(count, total)))
    pairs, number = [], 0
    for file in files:
        for batch in file.iter_batches(batch_size=64):
            wanted = [place for place in range(len(batch)) if number + place in chosen]
            pairs += [_shown(row) for row in batch.take(wanted).to_pylist()]
            number += len(batch)
    title = f"{folder.name}: {len(pairs)} of {total:,} pairs"
    with atomic_path(output) as temporary:
        page = render(Path(__file__).with_name("preview.html"), title=title, pairs=pairs)
        temporary.write_text(page, encoding="utf-8")
    return len(pairs)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a row."""
    picture = ImageRef(data=row["image"]["bytes"], name=str(row["id"])).open()
    factor = SIDE / max(picture.size)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    stream = io.BytesIO()
    picture.resize((width, height)).save(stream, "WEBP", quality=90)
    sides = ("chosen", "rejected")
    spans = changed_spans(*(row[side] for side in sides))
    answers = [
        {
            "side": side,
            "score": row[f"{side}_score"],
            "why": row[f"{side}_why"],
            "parts": _parts(row[side], some),
        }
        for side, some in zip(sides, spans, strict=True)
    ]
    return {
        "id": row["id"],
        "picture": f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}",
        "size": (width, height),
        "question": row["question"],
        "context": row.get("shared_context"),
        "reference": row.get("standard_response"),
        "judge": row["judge"],
        "answers": answers,
    }


def _parts(text: str, spans: Sequence[Span]) -> list[dict[str, Any]]:
    """The text cut at the borders of the spans."""
    parts, start = [], 0
    for begin, end in spans:
        parts += [{"text": text[start:begin], "changed": False}, {"text": text[begin:end], "changed": True}]
        start = end
    return [*parts, {"text": text[start:], "changed": False}]
