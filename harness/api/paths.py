"""Image paths in rows that a notebook has in its hands: relative to its working directory, not to the file that stores the rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aligners.preferences.tables import IMAGE_COLUMNS as READ_AS_IMAGES

IMAGE_COLUMNS = (*READ_AS_IMAGES, "img_path")
"""Columns of the formats that have images; VLFeedback calls its own `img_path`."""
_LONGEST_PATH = 4096


class ImagePaths:
    """Makes the image paths of rows absolute, and notes where they lead.

    Args:
        image_root: the folder that the user gave for image paths. Paths that lead to a file in it stay as they are, and others are only
            read if they lie in it.
    """

    def __init__(self, image_root: Path | None) -> None:
        self._given = image_root
        self._folders: set[str] = set()

    @property
    def root(self) -> Path | None:
        """The folder that was given; else the one that contains all images with a path, None if none has one."""
        if self._given is not None or not self._folders:
            return self._given
        return Path(os.path.commonpath(self._folders))

    def absolute(self, value: Any) -> Any:
        """A cell of an image column, with the paths of files absolute.

        Args:
            value: a text, a mapping with a `path`, a list of these, or another value, which stays as it is. So do a URL, base64, and the
                path of a file that does not exist, which the reader reports with its row.
        """
        if isinstance(value, list):
            return [self.absolute(cell) for cell in value]
        if isinstance(value, dict):
            return (
                value
                if value.get("bytes") or not value.get("path")
                else {**value, "path": self.absolute(value["path"])}
            )
        if not isinstance(value, str) or not value or len(value) > _LONGEST_PATH or "\0" in value:
            return value
        if self._given is not None and _is_file(self._given / value):
            return value
        path = Path.cwd() / value
        if not _is_file(path):
            return value
        # Links stay in the path that is stored: a COCO number at its end shows that an evaluation suite asks about the image.
        self._folders.add(str(path.resolve().parent))
        return str(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text that is too long for a name
        return False
