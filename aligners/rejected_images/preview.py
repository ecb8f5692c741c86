"""A contact sheet of a set of rejected images: originals, corrupted regions and rejected images, as a picture or a page."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aligners.preferences.cells import encoded, open_parquet
from aligners.preferences.options import DataOptions
from aligners.preferences.set_folder import kind_of
from aligners.rejected_images.image_set import KIND, set_files, set_rows
from harness.core.errors import BadInputError, shown
from harness.core.files import atomic_path
from harness.core.pages import render
from harness.core.types import ImageRef

SIDE = 240
"""Longest side of a picture on the sheet, in pixels."""
_OUTLINE = (255, 0, 200)
_INK, _FAINT, _PAPER, _CARD = (28, 28, 32), (105, 105, 115), (244, 244, 246), (255, 255, 255)
_GAP = 10
_REJECTED = ("rejected_image", "ranked_images")
"""Columns with the rejected image, or a list of them."""
_OURS = ("made", "mask")
"""Columns that say how `harness data corrupt` made a rejected image."""


@dataclass(frozen=True)
class Sample:
    """One example on the sheet: original, corrupted region and rejected images of one size (PIL), and the text below them."""

    id: str
    pictures: tuple[Any, ...]
    keywords: str
    how: str
    said: str


def preview(source: Path, output: Path, count: int, seed: int = 0, options: DataOptions | None = None) -> int:
    """Write a sheet of `count` examples, drawn by the seed, in their order; returns the number on it.

    `options` names the columns of the image and the rejected image in a set that was made elsewhere.

    Raises:
        BadInputError: there is no such set, or the sheet has an unknown type.
    """
    writers: dict[str, Callable[[Sequence[Sample], str, Path], None]] = {".png": _write_png, ".html": _write_html}
    if output.suffix not in writers:
        raise BadInputError(f"the sheet must be a .png or .html file, not '{output.suffix}'", where=str(output))
    options = options or DataOptions()
    files = set_files(source)
    total = _count(files, options)
    chosen = set(random.Random(seed).sample(range(total), min(count, total)))
    samples = [
        _checked(options.renamed(row), f"row {number + 1} of {source}")
        for number, row in enumerate(set_rows(files))
        if number in chosen
    ]
    title = f"{source.name}: {len(samples)} of {total:,} examples"
    with atomic_path(output) as temporary:
        writers[output.suffix](samples, title, temporary)
    return len(samples)


def is_image_set(source: Path, options: DataOptions, *, made_elsewhere: bool = False) -> bool:
    """Whether a sheet shows these data: a set that `harness data corrupt` made, or Parquet files of one.

    Other data may have rejected images too, in any form that `align` reads, which the sheet does not.

    Args:
        source: folder or file.
        options: renamed columns.
        made_elsewhere: Parquet files with rejected images of other origin count as well.
    """
    if kind_of(source) == KIND:
        return True
    files = [source] if source.is_file() else source.glob("*.parquet")
    return any(
        not known.isdisjoint(_REJECTED) and (made_elsewhere or not known.isdisjoint(_OURS))
        for file in files
        if file.suffix == ".parquet"
        for known in [set(options.renamed(dict.fromkeys(open_parquet(file).schema_arrow.names)))]
    )


def _count(files: Sequence[Path], options: DataOptions) -> int:
    total = 0
    for file in files:
        about = open_parquet(file)
        names = dict.fromkeys(about.schema_arrow.names)
        options.check(names, str(file))
        known = set(options.renamed(names))
        if missing := {"image"} - known or ({"rejected_image"} if known.isdisjoint(_REJECTED) else set()):
            raise BadInputError(
                f"there is no column '{sorted(missing)[0]}'",
                where=str(file),
                remedy="use a set that `harness data corrupt` made, or choose the column: --columns rejected_image=NAME",
            )
        total += about.metadata.num_rows
    return total


def _checked(row: dict[str, Any], where: str) -> Sample:
    try:
        return _sample(row)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise BadInputError(
            f"the row is not one of a set of rejected images: {shown(str(error), 200)[1:-1]}",
            where=where,
            remedy="make the set again: harness data corrupt PREFS -o DIR",
        ) from None


def _sample(row: dict[str, Any]) -> Sample:
    listed = row.get("ranked_images")
    cells = [row["image"], *(listed if listed is not None else [row["rejected_image"]])]
    original, *rejected = (
        ImageRef(data=encoded(cell), name=f"{row.get('id')}, image {number}").open()
        for number, cell in enumerate(cells)
    )
    marked = _small(original)
    if row.get("mask"):
        marked = _outlined(marked, ImageRef(data=row["mask"], name=f"{row.get('id')}, mask").open())
    scores = row.get("scores") or []
    # An object may be found several times; it is listed once, with its best score.
    best: dict[str, float | None] = {}
    for keyword, score in zip(row.get("keywords") or [], scores, strict=False):
        best[keyword] = max(filter(None, (best.get(keyword), score)), default=None)
    keywords = ", ".join(keyword + (f" {score:.2f}" if score is not None else "") for keyword, score in best.items())
    whole = {
        "whole-image": "the whole image",
        "random-regions": "random regions",
        "unchanged": "none: the corruption changes nothing",
        "given": "from the data",
    }
    how = " · ".join(
        str(part)
        for part in (
            row.get("corruption"),
            # Sets without a schedule are older than the setting, and used DDPM's on the scale [-1, 1].
            f"t = {row['step']} ({row.get('schedule') or 'ddpm'}, scale {row.get('scale') or 'unit'})"
            if row.get("step") is not None
            else f"strength {row['strength']:g}"
            if row.get("strength")
            else None,
            f"levels {', '.join(f'{level:g}' for level in row['levels'])}" if row.get("levels") else None,
            f"{original.width} x {original.height}",
        )
        if part
    )
    return Sample(
        str(row.get("id")),
        (_small(original), marked, *map(_small, rejected)),
        keywords or whole.get(str(row.get("made")), ""),
        how,
        " ".join(str(row.get("chosen") or "").split()),
    )


def _small(picture: Any) -> Any:
    from PIL import Image

    factor = SIDE / max(picture.size)
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    # Small pictures, as the pocket world's, keep their pixels; large ones are averaged.
    return picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)


def _outlined(picture: Any, mask: Any) -> Any:
    """Dim the image outside of the mask, and draw the mask's edge."""
    from PIL import Image

    inside = np.asarray(mask.convert("L").resize(picture.size, Image.Resampling.BILINEAR)) >= 128
    padded = np.pad(inside, 2)
    inner = inside.copy()
    height, width = inside.shape
    for down in range(5):
        for right in range(5):
            inner &= padded[down : down + height, right : right + width]
    values = np.array(picture)
    values[~inside] = (values[~inside] * 0.45 + 255 * 0.35).astype(np.uint8)
    values[inside & ~inner] = _OUTLINE
    return Image.fromarray(values)


def _write_png(samples: Sequence[Sample], title: str, path: Path) -> None:
    """Cards in two columns, of lists of images in one; each row of cards is as high as its highest."""
    from PIL import Image, ImageDraw, ImageFont

    large, plain, small = (ImageFont.load_default(size) for size in (22, 15, 13))
    across = max((len(sample.pictures) for sample in samples), default=3)
    card, columns = across * SIDE + (across + 1) * _GAP, min(2 if across == 3 else 1, max(1, len(samples)))
    rows = [samples[start : start + columns] for start in range(0, len(samples), columns)]
    heights = [max(sample.pictures[0].height for sample in row) + 2 * _GAP + 64 for row in rows]
    width = columns * card + (columns + 1) * _GAP
    sheet = Image.new("RGB", (width, 64 + sum(heights) + (len(rows) + 1) * _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP * 2, 14), title, _INK, large)
    pen.text((_GAP * 2, 44), f"from left to right: {', '.join(_names(across))}", _FAINT, plain)
    top = 64 + _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, sample in enumerate(row):
            left = _GAP + column * (card + _GAP)
            pen.rounded_rectangle((left, top, left + card, top + height), 8, _CARD)
            for place, picture in enumerate(sample.pictures):
                box_left = left + _GAP + place * (SIDE + _GAP)
                middle = (height - 2 * _GAP - 64 - picture.height) // 2
                sheet.paste(picture, (box_left + (SIDE - picture.width) // 2, top + _GAP + middle))
            line = top + height - 62
            room = card - 2 * _GAP
            pen.text((left + _GAP, line), _fitting(sample.keywords, plain, room), _INK, plain)
            pen.text((left + _GAP, line + 20), _fitting(f"{sample.how} · id {sample.id}", small, room), _FAINT, small)
            pen.text((left + _GAP, line + 38), _fitting(sample.said, small, room), _FAINT, small)
        top += height + _GAP
    sheet.save(path, "PNG")


def _fitting(text: str, font: Any, width: int) -> str:
    """The text, cut with an ellipsis if it is wider."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _names(count: int) -> list[str]:
    """What the pictures of an example are."""
    rejected = ["rejected image"] if count == 3 else [f"rejected image {number}" for number in range(1, count - 1)]
    return ["original", "corrupted region", *rejected]


def _write_html(samples: Sequence[Sample], title: str, path: Path) -> None:
    across = max((len(sample.pictures) for sample in samples), default=3)
    cards = [
        {
            "sample": sample,
            "pictures": [
                {"name": name, "source": f"data:image/webp;base64,{_webp(picture)}", "size": picture.size}
                for name, picture in zip(_names(len(sample.pictures)), sample.pictures, strict=True)
            ],
        }
        for sample in samples
    ]
    page = render(Path(__file__).with_name("preview.html"), title=title, cards=cards, names=_names(across))
    path.write_text(page, encoding="utf-8")


def _webp(picture: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=90)
    return base64.b64encode(stream.getvalue()).decode()
