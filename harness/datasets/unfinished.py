"""Which parts of a data set are being filled, so that a part whose import or unpacking was killed does not look complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.removal import remove


def marker(folder: Path, part: str) -> Path:
    """The file that exists in a data set's folder as long as files of a part are put into place.

    Args:
        folder: of the data set.
        part: name of an archive, or path of a file or folder below `folder`.
    """
    return folder / f".{Path(part).name}.unfinished"


@contextmanager
def filling(folder: Path, part: str) -> Iterator[None]:
    """Mark a part as unfinished during the block; the mark stays after an error or a kill, until a later block for the part ends.

    Raises:
        OSError: the mark cannot be written or removed.
    """
    mark = marker(folder, part)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    yield
    remove(mark, within=folder)
