"""Saving a few examples of a run with their original and rejected images, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligners.rejected_images.image_set import set_files, set_rows
from aligners.rejected_images.records import SampleRow
from harness.core.files import atomic_folder, sha256_bytes, write_jsonl
from harness.core.types import ImageRef, PreferenceExample

SAMPLES = 24
ROWS, FOLDER = "image_preferences.jsonl", "image_preferences"
_COLUMNS = (
    "id",
    "made",
    "keywords",
    "boxes",
    "scores",
    "mask",
    "corruption",
    "step",
    "schedule",
    "scale",
    "strength",
    "seed",
)


def write_samples(
    examples: Sequence[PreferenceExample], made_in: Path | None, output: Path, rejected: str = "rejected"
) -> str | None:
    """Write `image_preferences.jsonl` and the images it names, relative to `output`.

    A row: id, prompt, chosen, original and rejected (files), and, where the image was made and not given, mask (file), keywords, boxes,
    scores, corruption, step, schedule, scale, strength, seed. The choice of examples depends only on their ids.

    Args:
        examples: with their rejected images.
        made_in: the set of the rejected images; None if all were given in the data.
        output: the run's folder.
        rejected: name of the rejected image that is shown.

    Returns:
        The name of the file of rows, None if there is no example.
    """
    if not examples:
        return None
    some = sorted(examples, key=lambda example: sha256_bytes(example.id.encode()))[:SAMPLES]
    ids = {example.id for example in some}
    made = {row["id"]: row for row in set_rows(set_files(made_in), _COLUMNS) if row["id"] in ids} if made_in else {}
    rows = []
    with atomic_folder(output / FOLDER) as temporary:
        for number, example in enumerate(some):
            files = {
                kind: f"{FOLDER}/{_write(temporary, f'{number:02d}-{kind}', example.images[name])}"
                for kind, name in (("original", "original"), ("rejected", rejected))
            }
            row: dict[str, Any] = {"made": "given", **made.get(example.id, {})}
            if mask := row.pop("mask", None):
                (temporary / f"{number:02d}-mask.png").write_bytes(mask)
                files["mask"] = f"{FOLDER}/{number:02d}-mask.png"
            elif example.id in made:
                row["mask"] = None
            row |= {"id": example.id, "prompt": example.conversation(), "chosen": example.responses["chosen"]} | files
            rows.append(SampleRow(**row))
    write_jsonl(output / ROWS, (row.written() for row in rows))
    return ROWS


def _write(folder: Path, stem: str, image: ImageRef) -> str:
    """Write the encoded bytes as they are, under the suffix of their format."""
    import io

    from PIL import Image

    data = image.read()
    with Image.open(io.BytesIO(data)) as picture:
        name = f"{stem}.{(picture.format or 'img').lower()}"
    (folder / name).write_bytes(data)
    return name
