"""Preference data that a notebook has in its hands, as a file that `harness align` reads."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.core.errors import BadInputError
from harness.core.files import atomic_path
from harness.core.paths import cache_folder

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

    Rows: TypeAlias = Sequence[Mapping[str, Any]] | pd.DataFrame | Dataset


def stored(data: str | Path | Rows | None) -> str | None:
    """The name of preference data for an alignment.

    Args:
        data: a file, a folder or a known name, which stays as it is; or rows, as a list of mappings, a pandas frame or a
            `datasets.Dataset`, which are written to a Parquet file in the cache folder under the hash of their content. An image is a
            path, bytes, a PIL image or what `datasets` makes of one (`{"bytes": ..., "path": ...}`).

    Raises:
        BadInputError: there are no rows, or an image is of another type.
    """
    if data is None or isinstance(data, str | Path):
        return None if data is None else str(data)
    rows = _rows(data)
    if not rows:
        raise BadInputError("the preference data have no rows")
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: pa.array([_plain(row.get(name), name) for row in rows]) for name in columns})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    content = sink.getvalue()
    folder = cache_folder() / "data"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"rows-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    if not file.exists():
        with atomic_path(file) as temporary:
            Path(temporary).write_bytes(content)
    return str(file)


def _rows(data: Any) -> list[Mapping[str, Any]]:
    """The rows of a list, a frame or a data set."""
    if hasattr(data, "to_dict") and hasattr(data, "iloc"):  # pandas
        return list(data.to_dict("records"))
    return list(data)


def _plain(value: Any, column: str) -> Any:
    """A cell as Arrow stores it; an image as the bytes of its file, a PIL image as those of a PNG, which loses nothing.

    Raises:
        BadInputError: it is of a type that no column of preference data has.
    """
    if hasattr(value, "save") and hasattr(value, "mode"):  # a PIL image
        stream = io.BytesIO()
        value.save(stream, format="PNG")
        return {"bytes": stream.getvalue(), "path": None}
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: cell if name == "bytes" else _plain(cell, column) for name, cell in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(cell, column) for cell in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "item") and hasattr(value, "dtype"):  # a number of numpy
        return value.item()
    raise BadInputError(
        f"the column '{column}' has a value of the type {type(value).__name__}",
        remedy="give texts, numbers, lists of them, and images as paths, bytes or PIL images",
    )
