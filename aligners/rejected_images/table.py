"""The columns of a set of rejected images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aligners.preferences.extras import extra_columns
from harness.core.types import PreferenceExample

if TYPE_CHECKING:
    import pyarrow

FORMAT = 4
"""Raised when the columns or the images change. 3: noise by DDPM's schedule on the scale of [-1, 1], which the columns did not say."""
MADE = ("regions", "random-regions", "whole-image", "unchanged", "given")
"""Origin of a rejected image: corrupted in the keywords' regions, in random ones, or as a whole; the original, because the corruption
changes nothing of it (a black picture made black); or given in the data."""


def made_schema(listed: bool = False) -> pyarrow.Schema:
    """The columns that the generator adds, with the example's id. `listed`: an example has a list of rejected images and their levels."""
    import pyarrow as pa

    words, image = pa.list_(pa.string()), pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [("ranked_images", pa.list_(image)), ("levels", pa.list_(pa.float64()))]
    return pa.schema(
        [
            ("id", pa.string()),
            *(images if listed else [("rejected_image", image)]),
            ("made", pa.string()),
            ("keywords", words),
            ("boxes", pa.list_(pa.list_(pa.float32()))),
            ("scores", pa.list_(pa.float32())),
            ("mask", pa.binary()),
            ("region_source", pa.string()),
            ("detector", pa.string()),
            ("segmenter", pa.string()),
            ("corruption", pa.string()),
            ("step", pa.int32()),
            ("schedule", pa.string()),
            ("scale", pa.string()),
            ("strength", pa.float32()),
            ("seed", pa.string()),
        ]
    )


def whole_schema(listed: bool = False) -> pyarrow.Schema:
    """The same, preceded by the example's own columns, as every reader of preference data knows them."""
    import pyarrow as pa

    image, span = pa.struct([("bytes", pa.binary()), ("path", pa.string())]), pa.list_(pa.int32())
    turn = pa.struct([("role", pa.string()), ("text", pa.string()), ("has_image", pa.bool_())])
    made = made_schema(listed)
    return pa.schema(
        [
            made.field("id"),
            pa.field("image", image),
            pa.field("question", pa.string()),
            pa.field("chosen", pa.string()),
            pa.field("rejected", pa.string()),
            pa.field("standard_response", pa.string()),
            pa.field("chosen_spans", pa.list_(span)),
            pa.field("rejected_spans", pa.list_(span)),
            pa.field("earlier_turns", pa.list_(turn)),
            pa.field("shared_context", pa.string()),
            pa.field("responses_end", pa.bool_()),
            pa.field("example_weight", pa.float64()),
            *(pa.field(f"{name}_weights", pa.list_(pa.list_(pa.float64()))) for name in ("chosen", "rejected")),
            pa.field("objects", pa.list_(pa.struct([("label", pa.string()), ("box", pa.list_(pa.float64()))]))),
            pa.field("origin_dataset", pa.string()),
            *(field for field in made if field.name != "id"),
        ]
    )


def own_columns(example: PreferenceExample) -> dict[str, Any]:
    """An example's own columns, with the image's original encoded bytes."""
    original = example.images["original"]
    spans: dict[str, Any] = {"chosen_spans": None, "rejected_spans": None}
    if example.corrections is not None:
        spans = {f"{name}_spans": [list(span) for span in some] for name, some in example.corrections.items()}
    return {
        "id": example.id,
        "image": {"bytes": original.read(), "path": original.name or None},
        "question": example.prompt,
        "chosen": example.responses["chosen"],
        "rejected": example.responses["rejected"],
        "standard_response": example.responses.get("standard"),
        **spans,
        **extra_columns(example),
        "objects": [{"label": region.label, "box": list(region.box)} for region in example.regions] or None,
        "origin_dataset": example.source or None,
    }


def given_row(example: PreferenceExample, names: Sequence[str]) -> dict[str, Any]:
    """The row of an example whose rejected images are in the data; nothing is known about how they were made.

    Args:
        example: the example.
        names: of its rejected images: ("rejected",), or those of a list.
    """
    images = [{"bytes": image.read(), "path": image.name or None} for image in map(example.images.__getitem__, names)]
    cell = {"rejected_image": images[0]} if names == ("rejected",) else {"ranked_images": images}
    return {"id": example.id, **cell, "made": "given"}


def as_table(rows: Sequence[dict[str, Any]], schema: pyarrow.Schema) -> pyarrow.Table:
    """Rows as a table; a column that a row does not have is null."""
    import pyarrow as pa

    return pa.Table.from_pylist(list(rows), schema=schema)
