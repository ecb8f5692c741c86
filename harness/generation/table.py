"""The columns of a set of generated pairs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.files import atomic_path, sha256_json
from harness.core.outgoing import without_folders
from harness.generation.pairs import CandidatePair, Judged

if TYPE_CHECKING:
    import pyarrow

FORMAT = 2
"""Version of the columns; raised when they change. 2: reference answers and weights of characters."""


def schema() -> pyarrow.Schema:
    """The columns that every reader of preference data knows, and those of `formats.base.GENERATED`."""
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.string()),
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("question", pa.string()),
            ("chosen", pa.string()),
            ("rejected", pa.string()),
            ("standard_response", pa.string()),
            *((f"{side}_spans", pa.list_(pa.list_(pa.int32()))) for side in ("chosen", "rejected")),
            *((f"{side}_weights", pa.list_(pa.list_(pa.float64()))) for side in ("chosen", "rejected")),
            ("objects", pa.list_(pa.struct([("label", pa.string()), ("box", pa.list_(pa.float64()))]))),
            ("origin_dataset", pa.string()),
            ("shared_context", pa.string()),
            ("responses_end", pa.bool_()),
            ("judge", pa.string()),
            ("model", pa.string()),
            *((f"{side}_score", pa.float64()) for side in ("chosen", "rejected")),
            *((f"{side}_why", pa.string()) for side in ("chosen", "rejected")),
            *((f"{side}_sample", pa.int32()) for side in ("chosen", "rejected")),
        ]
    )


def row_of(pair: CandidatePair, judge: str, model: str) -> dict[str, Any]:
    """A pair's row, with the original encoded bytes of the image, and without the folders of this machine: sets are published."""
    prompt, part = pair.prompt, [pair.context] if pair.context else []
    return {
        "id": f"{prompt.id}-{sha256_json([*part, pair.chosen.number, pair.rejected.number])[:6]}",
        "image": {"bytes": prompt.image.read(), "path": without_folders(prompt.image.name) or None},
        "question": prompt.text,
        "chosen": pair.chosen.response.text.strip(),
        "rejected": pair.rejected.response.text.strip(),
        # A sentence has none: the reference is a whole answer.
        "standard_response": (prompt.reference or None) if pair.whole else None,
        "objects": [{"label": region.label, "box": list(region.box)} for region in prompt.regions] or None,
        "origin_dataset": prompt.source or None,
        "shared_context": pair.context or None,
        "responses_end": None if pair.whole else False,
        "judge": judge,
        "model": without_folders(model),
        **_side("chosen", pair.chosen),
        **_side("rejected", pair.rejected),
    }


def _side(name: str, answer: Judged) -> dict[str, Any]:
    changed = None if answer.changed is None else [list(span) for span in answer.changed]
    return {
        f"{name}_score": answer.score,
        f"{name}_why": answer.verdict.why,
        f"{name}_sample": answer.number,
        f"{name}_spans": changed,
        f"{name}_weights": [list(span) for span in answer.weights] or None,
    }


def write_part(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one file; returns the number of its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(list(rows), schema=schema())
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, row_group_size=500)
    return int(table.num_rows)
