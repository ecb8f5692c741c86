"""Preference data that a notebook has in its hands, as a file that `harness align` reads."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.api.paths import IMAGE_COLUMNS, ImagePaths
from harness.core.errors import BadInputError, shown
from harness.core.files import atomic_path
from harness.core.images import ORIENTATION
from harness.core.paths import cache_folder

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

    Rows: TypeAlias = Sequence[Mapping[str, Any]] | pd.DataFrame | Dataset

_AS_PNG = {
    **{mode: mode for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16", "I;16B")},
    **{"La": "LA", "PA": "RGBA", "RGBa": "RGBA"},
}
"""Mode of a PIL image -> the mode with the same content that a PNG has; of the others (CMYK, YCbCr, ...), RGB has what training sees."""


def stored(
    data: str | Path | Rows | None, columns: Mapping[str, str] | None = None, image_root: Path | None = None
) -> tuple[str | None, Path | None]:
    """The name of preference data for an alignment, and the folder that its image paths lie in.

    Args:
        data: a file, a folder or a known name, which stays as it is; or rows, as a list of mappings, a pandas frame or a
            `datasets.Dataset`, which are written to a Parquet file in the cache folder under the hash of their content. An image is a
            path, bytes, a PIL image or what `datasets` makes of one (`{"bytes": ..., "path": ...}`). Missing values of pandas (NaN,
            NA, NaT) become null.
        columns: a name of the harness -> the data's column.
        image_root: the folder that the user gave for image paths, if any.

    Returns:
        The name, and `image_root`; if that is None and the rows have image paths, which are relative to the working directory, the
        folder that contains all of these images.

    Raises:
        BadInputError: there are no rows, an image is of another type or cannot be stored, or a column has values of several types.
    """
    if data is None or isinstance(data, str | Path):
        return None if data is None else str(data), image_root
    rows = _rows(data)
    if not rows:
        raise BadInputError("the preference data have no rows")
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = ImagePaths(image_root)
    images = {(columns or {}).get(name, name) for name in IMAGE_COLUMNS}
    arrays = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        cells = [_plain(row.get(name), name) for row in rows]
        arrays[name] = _array([paths.absolute(cell) for cell in cells] if name in images else cells, name)
    sink = io.BytesIO()
    pq.write_table(pa.table(arrays), sink)
    content = sink.getvalue()
    folder = cache_folder() / "data"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"rows-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    if not file.exists():
        with atomic_path(file) as temporary:
            Path(temporary).write_bytes(content)
    return str(file), paths.root


def _rows(data: Any) -> list[Mapping[str, Any]]:
    """The rows of a list, a frame or a data set."""
    if hasattr(data, "to_dict") and hasattr(data, "iloc"):  # pandas
        return list(data.to_dict("records"))
    return list(data)


def _array(cells: Sequence[Any], column: str) -> Any:
    """A column as Arrow stores it.

    Raises:
        BadInputError: its values are not of one type.
    """
    import pyarrow as pa

    try:
        return pa.array(cells)
    except (pa.ArrowException, OverflowError) as error:
        types = sorted({type(cell).__name__ for cell in cells if cell is not None})
        raise BadInputError(
            f"the column '{column}' cannot be stored: {shown(str(error), 200)[1:-1]}",
            where=f"values of the types {', '.join(types)}",
            remedy="give all rows values of the same type in this column; a missing one is None",
        ) from None


def _plain(value: Any, column: str) -> Any:
    """A cell as plain values; an image as the bytes of its file, a PIL image as those of a PNG, which loses nothing that training sees.

    Raises:
        BadInputError: it is of a type that no column of preference data has.
    """
    if hasattr(value, "save") and hasattr(value, "mode"):  # a PIL image
        return {"bytes": _png(value, column), "path": None}
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: cell if name == "bytes" else _plain(cell, column) for name, cell in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(cell, column) for cell in value]
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # an array or a number of numpy
        return _plain(value.tolist(), column)
    if type(value).__name__ in ("NAType", "NaTType"):  # what pandas has in place of a missing value
        return None
    if isinstance(value, float) and value != value:
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise BadInputError(
        f"the column '{column}' has a value of the type {type(value).__name__}",
        remedy="give texts, numbers, lists of them, and images as paths, bytes or PIL images",
    )


def _png(image: Any, column: str) -> bytes:
    """The bytes of a PIL image as PNG, upright, as `harness.core.images.decode` reads a file of it.

    Raises:
        BadInputError: it cannot be read, or has values without a known range.
    """
    from PIL import ImageOps

    stream = io.BytesIO()
    try:
        if image.mode == "F":
            raise ValueError("it has floating-point values of unknown range; convert it to 8 bits")
        if image.getexif().get(ORIENTATION, 1) not in (0, 1):  # which a PNG does not keep
            image = ImageOps.exif_transpose(image)
        mode = _AS_PNG.get(image.mode, "RGB")
        (image if image.mode == mode else image.convert(mode)).save(stream, format="PNG")
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInputError(
            f"the column '{column}' has a PIL image that cannot be stored: {shown(str(error), 200)[1:-1]}",
            where=f"an image of the mode {image.mode}",
            remedy='give one that can be saved, such as image.convert("RGB")',
        ) from None
    return stream.getvalue()
