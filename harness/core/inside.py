"""Paths in other people's data must stay in the data's folder, or are refused.

A data set is not trusted. A path in it that leads elsewhere could open any file of this machine and send it to an endpoint.
"""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import BadInputError, shown


def resolved(path: Path) -> Path | None:
    """The path with its links followed; None if no file can have it (a loop of links, a null character)."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return None


class Folder:
    """A folder that contains the files that data names, such as a benchmark's `images/`. It may itself be a link."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._resolved = resolved(root)
        self._seen: dict[str, Path] = {}

    def holds(self, path: Path) -> bool:
        """Whether a path leads into the folder, its links followed; the file need not exist."""
        place = resolved(path)
        return place is not None and self._resolved is not None and place.is_relative_to(self._resolved)

    def path(self, name: str, where: str, what: str = "image") -> Path:
        """The path of a named file in the folder; the file need not exist.

        Args:
            name: as in the data, relative to the folder.
            where: file and line that contain it, for messages.
            what: what it names, for messages.

        Raises:
            BadInputError: it leaves the folder, by `..`, as an absolute path or through a link.
        """
        if name not in self._seen:
            path = self.root / name
            if not self.holds(path):
                raise BadInputError(
                    f"the {what} path leaves the data folder: {shown(name)}",
                    where=where,
                    remedy=f"put the file into {self.root}; the folder may be a link, but its files may not link to a place outside",
                )
            self._seen[name] = path
        return self._seen[name]
