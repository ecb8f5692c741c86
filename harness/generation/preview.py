"""A page of preference pairs: picture, earlier turns, question and both answers; of generated ones, why the judge scored them so."""

from __future__ import annotations

import base64
import io
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligners.preferences.extras import turns_of_column
from aligners.preferences.options import DataOptions
from aligners.preferences.read import read_preferences
from aligners.preferences.set_folder import kind_of, listed_files, refuse_incomplete
from harness.core.errors import BadInputError
from harness.core.files import atomic_path
from harness.core.pages import render
from harness.core.types import ImageRef, PreferenceExample, Span
from harness.generation.generate import KIND
from harness.generation.rewrite import changed_spans

logger = logging.getLogger(__name__)

SIDE = 240
"""Longest side of a picture on the page, in pixels."""
_COMPARED = ("chosen", "rejected")


def is_pair_set(folder: Path) -> bool:
    """Whether a folder has a set of generated pairs."""
    return kind_of(folder) == KIND


def preview_pairs(folder: Path, output: Path, count: int, seed: int = 0) -> int:
    """Write a page of `count` generated pairs, drawn by the seed, in their order; returns the number on it.

    Raises:
        BadInputError: the set is not complete, or the page is no .html file.
    """
    import pyarrow.parquet as pq

    _refuse_other_types(output)
    refuse_incomplete(folder)
    files = [pq.ParquetFile(path) for path in listed_files(folder) or ()]
    total = sum(file.metadata.num_rows for file in files)
    chosen = set(random.Random(seed).sample(range(total), min(count, total)))
    cards, number = [], 0
    for file in files:
        for batch in file.iter_batches(batch_size=64):
            wanted = [place for place in range(len(batch)) if number + place in chosen]
            cards += [_card_of_row(row) for row in batch.take(wanted).to_pylist()]
            number += len(batch)
    _write(output, f"{folder.name}: {len(cards)} of {total:,} pairs", cards)
    return len(cards)


def preview_preferences(source: str, output: Path, count: int, seed: int, options: DataOptions) -> int:
    """Write a page of `count` pairs of any preference data, as `align` would read them; returns the number on it.

    Args:
        source: as for `read_preferences`.
        output: the page.
        count: records that the seed draws.
        seed: of the draw.
        options: renamed columns, and a further folder of images.

    Raises:
        BadInputError: the data cannot be read, or none of the drawn records can; or the page is no .html file.
    """
    _refuse_other_types(output)
    data = read_preferences(source, on_error="skip", limit=count, seed=seed, options=options)
    if data.dropped:
        first = data.dropped[0]
        logger.warning(
            f"{len(data.dropped)} of the drawn records cannot be used, the first: {first.where}: {first.reason}. "
            "All are listed by: harness data check"
        )
    _write(output, f"{Path(source).name}: {len(data.examples)} pairs", [_card_of(one) for one in data.examples])
    return len(data.examples)


def _refuse_other_types(output: Path) -> None:
    if output.suffix != ".html":
        raise BadInputError(
            f"the page of pairs must be a .html file, not '{output.suffix}'", where=str(output), remedy="-o pairs.html"
        )


def _write(output: Path, title: str, cards: Sequence[Mapping[str, Any]]) -> None:
    with atomic_path(output) as temporary:
        page = render(Path(__file__).with_name("preview.html"), title=title, cards=cards)
        temporary.write_text(page, encoding="utf-8")


def _card_of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a generated pair, a row of our own sets."""
    turns = turns_of_column(row["earlier_turns"]) if row.get("earlier_turns") else ()
    return {
        "id": row["id"],
        "pictures": [_picture("picture", ImageRef(data=row["image"]["bytes"], name=str(row["id"])))],
        "turns": turns,
        "question": row["question"],
        "context": row.get("shared_context"),
        "reference": row.get("standard_response"),
        "judge": row["judge"],
        "answers": [
            {**answer, "score": row[f"{answer['side']}_score"], "why": row[f"{answer['side']}_why"]}
            for answer in _answers(row)
        ],
    }


def _card_of(example: PreferenceExample) -> dict[str, Any]:
    """What the page shows of an example: all its images and answers."""
    return {
        "id": example.id,
        "pictures": [
            _picture("picture" if name == "original" else name, image) for name, image in example.images.items()
        ],
        "turns": example.history,
        "question": example.prompt,
        "context": example.context,
        "reference": example.responses.get("standard"),
        "judge": None,
        "answers": _answers(example.responses),
    }


def _picture(name: str, image: ImageRef) -> dict[str, Any]:
    picture = image.open()
    factor = SIDE / max(picture.size)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    stream = io.BytesIO()
    picture.resize((width, height)).save(stream, "WEBP", quality=90)
    source = f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return {"name": name, "source": source, "size": (width, height)}


def _answers(texts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The chosen and the rejected answer, what only one of them says marked."""
    spans = changed_spans(*(texts[side] for side in _COMPARED))
    return [
        {"side": side, "score": None, "why": None, "parts": _parts(texts[side], marked)}
        for side, marked in zip(_COMPARED, spans, strict=True)
    ]


def _parts(text: str, spans: Sequence[Span]) -> list[dict[str, Any]]:
    """The text cut at the borders of the spans."""
    parts, start = [], 0
    for begin, end in spans:
        parts += [{"text": text[start:begin], "changed": False}, {"text": text[begin:end], "changed": True}]
        start = end
    return [*parts, {"text": text[start:], "changed": False}]
