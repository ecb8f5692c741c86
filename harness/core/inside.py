"""Paths in other people's data: they stay in the data's folder, or are refused.

A data set is a stranger's text. A path in it that leads elsewhere would have any file of this machine opened, and sent to an endpoint.
"""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import BadInputError, shown


def resolved(path: Path) -> Path | None:
    """The file that a path means, its links followed; None of a path that no file can have (a loop of links, a null character)."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return None


class Folder:
    """A folder that holds what data name, for instance a benchmark's `images/`. It may itself be a link to somewhere else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._resolved = resolved(root)
        self._seen: dict[str, Path] = {}

    def holds(self, path: Path) -> bool:
        """Whether a path leads into the folder, its links followed; the file need not exist."""
        place = resolved(path)
        return place is not None and self._resolved is not None and place.is_relative_to(self._resolved)

    def path(self, name: str, where: str, what: str = "image") -> Path:
        """The path of a name in the folder; the file need not exist.

        Args:
            name: as the data have it, relative to the folder.
            where: file and line that have it, for messages.
            what: what it names, for messages.

        Raises:
            BadInputError: it leads out of the folder, by `..`, as an absolute path or through a link.
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
