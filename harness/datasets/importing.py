"""Importing data sets from a folder of files that exist already, for machines without a network."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.core import registry
from harness.core.errors import BadInputError
from harness.core.files import sha256_file
from harness.core.progress import progress
from harness.core.removal import move, remove
from harness.datasets import catalogue as known
from harness.datasets.catalogue import DataSet, Found, check, packed_name, with_needs, write_record
from harness.datasets.folder_index import FolderIndex, files_in
from harness.datasets.unfinished import filling
from harness.datasets.unpack import unpack

_IMAGES = frozenset((".jpg", ".jpeg", ".png"))
_COMMON = frozenset(("images", "image"))
"""Folder names that say nothing about the suite whose pictures are in them."""
_NAMED = 12
"""Number of names in an error."""


def bring(folder: Path, names: Sequence[str], root: Path | None = None) -> list[tuple[DataSet, list[Found]]]:
    """Import files from anywhere in a folder (for offline clusters), by name and place, and by checksum if one is known.

    Files are copied; images are linked if the file system supports it. Archives in the folder are unpacked. Pictures are taken from a
    folder below the suite's name (`mm-vet/images`). A folder that is only called `images` is taken if there is no other and only one of
    the data sets could mean it; otherwise nothing is taken, and the note of the missing part names the folders.

    Args:
        folder: searched including its subfolders.
        names: data sets to look for; [] for all.
        root: benchmark data root; None takes the cache folder's.

    Returns:
        The data sets and those that they require, with the state of their parts after the import.

    Raises:
        BadInputError: no such folder, or nothing in it could be imported, and nothing was there before.
        UnknownNameError: there is no such data set.
    """
    if not folder.is_dir():
        raise BadInputError("this folder does not exist", where=str(folder))
    asked = with_needs(names or [name for name, data in known.catalogue().items() if not data.hub])
    index = FolderIndex.of(folder)
    imports = [_Import(data, data.root(root), index, asked, _suites()) for data in asked]
    result = []
    for task in imports:
        task.run(check(task.data, root))
        states = check(task.data, root)
        result.append((task.data, [replace(part, note=task.notes.get(part.path, part.note)) for part in states]))
    if not any(task.taken for task in imports) and all(
        part.state != "there" for _, states in result for part in states
    ):
        raise _nothing_taken(folder, asked, [note for task in imports for note in task.notes.values()])
    return result


def _nothing_taken(folder: Path, asked: Sequence[DataSet], unclear: Sequence[str]) -> BadInputError:
    if unclear:
        return BadInputError(
            "it is not clear which data set the files in this folder belong to", where=str(folder), remedy=unclear[0]
        )
    names = sorted({name for data in asked for name in _names(data)})
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return BadInputError(
        "the folder contains no file of these data sets",
        where=str(folder),
        remedy=f"expected names: {', '.join(names[:_NAMED])}{more}",
    )


def _names(data: DataSet) -> list[str]:
    """Names by which files and folders of a data set are recognised."""
    return [
        *(Path(str(file["path"])).name for file in data.files),
        *(packed_name(archive) for archive in data.archives),
        *(_place(data, str(part["path"])) for part in data.manual),
    ]


def _suites() -> set[str]:
    """Names of folders that say which suite their files belong to."""
    sets = known.catalogue().values()
    parts = {Path(part["path"]).name for data in sets for part in data.manual}
    return ({Path(data.folder).name for data in sets} | set(registry.entries("benchmarks")) | parts) - _COMMON - {""}


def _place(data: DataSet, name: str) -> str:
    """A part's path below the data root."""
    return (Path(data.folder) / name).as_posix()


@dataclass
class _Import:
    """The import of one data set.

    Attributes:
        data: what is imported.
        target: its folder.
        index: of the folder that it is imported from.
        asked: all data sets of this command.
        suites: names of the folders of all data sets and suites.
        notes: part -> how many files were taken from where, or why none.
        taken: number of files.
    """

    data: DataSet
    target: Path
    index: FolderIndex
    asked: Sequence[DataSet]
    suites: set[str]
    notes: dict[Path, str] = field(default_factory=dict)
    taken: int = 0

    def run(self, before: Sequence[Found]) -> None:
        """Take every part that is not there.

        Args:
            before: the state of all parts.
        """
        complete = {part.path for part in before if part.state == "there"}
        for file in self.data.files:
            if self.target / file["path"] not in complete and (source := self._published(file)):
                self._copy(source, self.target / file["path"])
                write_record(self.target, file["path"], sha256_file(self.target / file["path"]))
        for archive in self.data.archives:
            if any(self.target / name not in complete for name in archive["expect"]):
                self._archive(archive)
        for part in self.data.manual:
            name = str(part["path"])
            if self.target / name not in complete:
                common = Path(name).name in _COMMON
                wanted = _is_image if common else _is_any
                self._place_all(name, self._from_folder(name, [], wanted, deep=not common))

    def _published(self, file: Mapping[str, Any]) -> Path | None:
        """The file with the right checksum; if none is known, the only file of that name that is in no other suite's folder."""
        path = str(file["path"])
        names = sorted({Path(path).name, str(file["url"]).rpartition("/")[2]})
        candidates = [place for name in names for place in self.index.files.get(name, [])]
        if file.get("sha256"):
            return next((place for place in candidates if sha256_file(place) == file["sha256"]), None)
        candidates = self.index.at(candidates, [_place(self.data, path)]) or self._free(candidates)
        return self._only(path, candidates[:1] if _are_equal(candidates) else candidates, "files")

    def _archive(self, archive: Mapping[str, Any]) -> None:
        """Unpack an archive, or take its files where they were unpacked already."""
        members = [(str(pattern), str(into)) for pattern, into in archive["unpack"]]
        if packed := self.index.files.get(packed_name(archive)):
            self.taken += len(unpack(packed[0], self.target, members, archive["most_bytes"]))
            return
        sources: dict[str, Path] = {}
        for name in archive["expect"]:
            into = name if name in {into for _, into in members} else str(Path(name).parent)
            patterns = [pattern for pattern, other in members if Path(other) == Path(into)]
            prefixes = [prefix for pattern in patterns if (prefix := _prefix(pattern))]

            def is_member(file: str, patterns: Sequence[str] = patterns) -> bool:
                return any(re.fullmatch(pattern, _prefix(pattern) + file) for pattern in patterns)

            if into == name:
                sources |= self._from_folder(name, prefixes, is_member)
            else:
                sources |= self._beside(name, prefixes, is_member)
        self._place_all(packed_name(archive), sources)

    def _beside(self, name: str, prefixes: Sequence[str], wanted: Callable[[str], bool]) -> dict[str, Path]:
        """Path below the target -> file, for an archive's file and the others of the archive in the same folder.

        Args:
            name: the file's path below the target.
            prefixes: folders that the archive has it in, such as `val2014/`.
            wanted: whether a file of this name is of the archive.
        """
        last = Path(name).name
        files = self.index.files.get(last, [])
        in_place = self.index.at(files, [_place(self.data, name), *(prefix + last for prefix in prefixes)])
        if wanted("?"):  # every file of the folder is of the archive, so it must be the right folder
            files = in_place
        if _are_equal(files):  # some copies have only a part of the archive beside them
            candidates = [max(files, key=lambda path: len(files_in(path.parent, wanted)))]
        else:  # a name such as COCO's says enough, so that even a file in another suite's folder is the right one
            candidates = in_place or self._free(files) or files
        if (chosen := self._only(name, candidates, "files")) is None:
            return {}
        members = files_in(chosen.parent, wanted)
        self.notes[self.target / name] = _counted(members, chosen.parent)
        return {(Path(name).parent / relative).as_posix(): path for relative, path in members.items()}

    def _from_folder(
        self, name: str, prefixes: Sequence[str], wanted: Callable[[str], bool], deep: bool = False
    ) -> dict[str, Path]:
        """Path below the target -> file, for the wanted files of the folder that is a part of the data set.

        Args:
            name: the folder's path below the target.
            prefixes: paths that the archive has for it.
            wanted: whether a file of this name is a part of it.
            deep: take the files of its subfolders, too.
        """
        named = self.index.folders.get(Path(name).name, [])
        folders = [folder for folder in named if files_in(folder, wanted, deep=deep)]
        candidates = self._in_its_place(name, folders, prefixes)
        if not candidates and len(Path(name).parts) == 1:
            candidates = self.index.nearest(self._free(folders))
            rivals = [data.name for data in self.asked if self._may_mean(data, name, folders)]
            if len(candidates) == 1 and len(rivals) > 1:
                self.notes[self.target / name] = (
                    f"{candidates[0]} may be that of {', '.join(rivals)}; if it is that of {self.data.name}: "
                    f"{self._command(candidates[0])}"
                )
                return {}
        if (chosen := self._only(name, candidates, "folders")) is None:
            return {}
        files = files_in(chosen, wanted, deep=deep)
        self.notes[self.target / name] = _counted(files, chosen)
        return {f"{name}/{relative}": path for relative, path in files.items()}

    def _in_its_place(
        self, name: str, folders: Sequence[Path], prefixes: Sequence[str], of: DataSet | None = None
    ) -> list[Path]:
        """Those of `folders` whose path says whose they are: `mm-vet/images`, `punkt_tab/english`."""
        return self.index.at(folders, [_place(of or self.data, name), *prefixes])

    def _may_mean(self, data: DataSet, name: str, folders: Sequence[Path]) -> bool:
        """Whether a data set has a part of this name, and nothing in the imported folder that is surely that part."""
        if any(part["path"] == name for part in data.manual):
            return not self._in_its_place(name, folders, [], data)
        packed = [archive for archive in data.archives if name in archive["expect"]]
        return any(packed_name(archive) not in self.index.files for archive in packed) and not self._in_its_place(
            name, folders, [], data
        )

    def _free(self, places: Sequence[Path]) -> list[Path]:
        return self.index.outside_others(places, Path(self.data.folder).name, self.suites)

    def _only(self, name: str, candidates: Sequence[Path], what: str) -> Path | None:
        """The only candidate; of several, a note lists them, and none is taken."""
        if len(candidates) > 1:
            self.notes[self.target / name] = (
                f"several {what} could be it: {', '.join(map(str, candidates[:3]))}{', …' if len(candidates) > 3 else ''}; "
                f"import from the folder of the right one, for example {self._command(candidates[0])}"
            )
        return candidates[0] if len(candidates) == 1 else None

    def _command(self, place: Path) -> str:
        return f"harness data import {shlex.quote(str(place.parent))} {self.data.name}"

    def _place_all(self, part: str, sources: Mapping[str, Path]) -> None:
        """Put the files of a part into place; the part counts as missing until all of them are there."""
        if not sources:
            return
        with filling(self.target, part), progress(f"importing {self.data.name}", len(sources)) as advance:
            for relative, source in sources.items():
                self._copy(source, self.target / relative)
                advance()

    def _copy(self, source: Path, target: Path) -> None:
        """Copy a file, or link it if it is a picture. The target's name appears when the file is complete."""
        self.taken += 1
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and target.resolve() == source.resolve():
            return
        temporary = target.with_name(f".{target.name}.new")
        remove(temporary, within=target.parent)
        linked = False
        if _is_image(source.name):  # many, and only read; other files are copied, because NLTK refuses links
            with suppress(OSError):
                os.link(source.resolve(), temporary)
                linked = True
        if not linked:
            shutil.copyfile(source, temporary)
        move(temporary, target, within=target.parent)


def _are_equal(files: Sequence[Path]) -> bool:
    """Whether there are files, and all have the same content."""
    return bool(files) and (len(files) == 1 or len({sha256_file(path) for path in files}) == 1)


def _counted(files: Mapping[str, Path], folder: Path) -> str:
    return f"{len(files):,} {'file' if len(files) == 1 else 'files'} from {folder}"


def _prefix(pattern: str) -> str:
    """The folders that a pattern of an archive's members begins with as plain text: `val2014/`; "" if there are none."""
    start = re.match(r"(?:[\w-]+/)*", pattern)
    return start[0] if start else ""


def _is_any(name: str) -> bool:
    return True


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in _IMAGES
