"""What a folder that is imported from contains, and which of its files or folders is a certain part of a data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.progress import progress
from harness.core.removal import REMOVED
from harness.core.temporary import SUFFIX

_UNUSABLE = ("__MACOSX",)
"""Folders whose files have the names of pictures, and are none."""


@dataclass(frozen=True)
class FolderIndex:
    """The files and folders below a folder, and the folder itself, by their last name.

    Attributes:
        top: the folder's absolute path.
        files: paths, sorted.
        folders: paths, sorted.
    """

    top: Path
    files: dict[str, list[Path]]
    folders: dict[str, list[Path]]

    @classmethod
    def of(cls, folder: Path) -> FolderIndex:
        """Walk through a folder. What killed commands left there is not listed.

        Raises:
            OSError: it cannot be read.
        """
        # The path as the user wrote it, without following links: its names say which suite's files these are.
        top = folder.absolute()
        files: dict[str, list[Path]] = {}
        folders: dict[str, list[Path]] = {top.name: [top]}
        with progress(f"searching {top.name or top}", None) as advance:
            for place, below, names in os.walk(top):
                below[:] = sorted(name for name in below if _is_usable(name))
                for name in sorted(names):
                    files.setdefault(name, []).append(Path(place) / name)
                for name in below:
                    folders.setdefault(name, []).append(Path(place) / name)
                advance()
        return cls(top, files, folders)

    def at(self, places: Sequence[Path], endings: Sequence[str]) -> list[Path]:
        """Those of `places` that end in the first of the `endings` (paths such as `mm-vet/images`) that any of them ends in."""
        for ending in endings:
            tail = Path(ending).parts
            if matching := [place for place in places if place.parts[-len(tail) :] == tail]:
                return matching
        return []

    def nearest(self, places: Sequence[Path]) -> list[Path]:
        """The one of `places` that is `top` itself or directly in it; all of them if none or several are."""
        direct = [place for place in places if self.top in (place, place.parent)]
        return direct if len(direct) == 1 else list(places)

    def outside_others(self, places: Sequence[Path], owner: str, others: Collection[str]) -> list[Path]:
        """Those of `places` that are not in a folder with the name of another data set.

        Args:
            places: paths below `top`.
            owner: name of the folder of the data set that they are wanted for.
            others: names of the folders of all data sets and suites.
        """
        return [place for place in places if self._suite(place, {owner, *others}) in (None, owner)]

    def _suite(self, place: Path, names: Collection[str]) -> str | None:
        """The nearest folder around a path, up to `top`, that has one of the names."""
        around = place.relative_to(self.top.parent).parts[:-1]
        return next((name for name in reversed(around) if name in names), None)


def files_in(folder: Path, wanted: Callable[[str], bool], *, deep: bool = False) -> dict[str, Path]:
    """Relative path -> file, for the files of a folder whose name is `wanted`; hidden ones are left out.

    Args:
        folder: is listed.
        wanted: is called with a file's name.
        deep: include the subfolders.
    """
    files: dict[str, Path] = {}
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if _is_usable(name) and not name.startswith(".")) if deep else []
        for name in sorted(names):
            if not name.startswith(".") and wanted(name):
                path = Path(place) / name
                files[str(path.relative_to(folder))] = path
    return files


def _is_usable(folder: str) -> bool:
    return folder not in _UNUSABLE and not folder.endswith((SUFFIX, REMOVED))
