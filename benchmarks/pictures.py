"""Pictures in cells of a benchmark's table, as bytes or as base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from harness.core.errors import BadInputError, shown
from harness.core.types import ImageRef


def stored_picture(cell: Any, where: str, name: str) -> ImageRef:
    """The picture in a cell: bytes, {bytes, path} as in data sets of the hub, or a base64 text.

    Args:
        cell: the value.
        where: file and row, for messages.
        name: the picture's name in messages.

    Raises:
        BadInputError: it is something else, or nothing.
    """
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if isinstance(data, str):
        try:
            data = base64.b64decode("".join(data.split()), validate=True)
        except (binascii.Error, ValueError):
            raise BadInputError(f"the column 'image' is not base64: {shown(data, 40)}", where=where) from None
    if not isinstance(data, bytes) or not data:
        raise BadInputError(f"the column 'image' contains no picture: {shown(cell, 40)}", where=where)
    return ImageRef(data=data, name=name)
