"""Resolving a user's name for preference data to files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from aligners.preferences.folder_files import files_of_folder, holds_records, one_of, refuse_several_types, type_of
from aligners.preferences.hub_data import HubData
from aligners.preferences.hub_data import files_of as hub_data_files
from aligners.preferences.hub_data import look as hub_data_look
from aligners.preferences.set_folder import refuse_incomplete
from harness.core.disk import need
from harness.core.errors import BadInputError, shown
from harness.core.reading import open_binary
from harness.remote import hub

logger = logging.getLogger(__name__)

KNOWN = {
    "rlaif-v": ("openbmb/RLAIF-V-Dataset", "about 83,000 pairs, some 12 GB"),
    "rlhf-v": ("openbmb/RLHF-V-Dataset", "about 5,700 pairs, some 300 MB"),
    "vlfeedback": ("MMInstruction/VLFeedback", "about 80,000 prompts with four rated answers each"),
}
"""Names of public data sets on the hub, and their sizes for the log."""
_PUBLISHED = (".parquet",)
"""The types of files of the public data sets."""
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class Files:
    """The files of a source.

    Attributes:
        root: the folder that image paths are relative to and must stay in.
        files: in it.
        store: the folder that links in `root` may lead to, as in the hub's cache; or None.
    """

    root: Path
    files: list[Path]
    store: Path | None = None


def find_files(source: str) -> Files:
    """The files of a name, a file or a folder.

    If file names in a folder mark splits (`train-00000-of-00008.parquet`, `test-...`), only the training split is used, and this is
    logged.

    Raises:
        BadInputError: there is nothing there, or files of several types.
        HarnessError: a data set of the hub cannot be downloaded.
    """
    if source in KNOWN:
        folder = Path(_download(source))
        return Files(folder, files_of_folder(folder, _PUBLISHED))
    path = Path(source)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError:  # a text that is too long for a name
        is_folder = is_file = False
    if is_folder:
        refuse_incomplete(path)
        return Files(path, files_of_folder(path))
    if not is_file:
        if _is_something(path):
            open_binary(path, "preference data").close()  # raises an error about its type
        if (data := hub_data(source)) is not None:
            folder, files = hub_data_files(data)
            return Files(folder, _readable(files, data.repository), folder.parent.parent / "blobs")
        raise BadInputError(
            "this preference data does not exist",
            where=source,
            remedy=f"give a {one_of()} file, a folder of them, a data set of the hub (NAMESPACE/NAME), or one of: "
            f"{', '.join(KNOWN)}",
        )
    if not type_of(path.name):
        raise BadInputError(
            f"preference data is {one_of()}, not {shown(path.suffix)}",
            where=source,
            remedy="convert it to one of these, e.g. JSON lines: one JSON object per line",
        )
    return Files(path.parent, [path])


def _is_something(path: Path) -> bool:
    """Whether a path exists, even as a broken link or a pipe."""
    try:
        return path.is_symlink() or path.exists()
    except OSError:
        return False


def hub_data(source: str) -> HubData | None:
    """The data set of the hub that a source names; None if it names something else.

    A path of a file or folder is never taken for one: what exists here has been found before, and an id has no file's ending.
    """
    return None if type_of(source) else HubData.parse(source)


def _readable(files: list[Path], where: str) -> list[Path]:
    """The files that contain records; the others are pictures that these name.

    Raises:
        BadInputError: there are none, or they have several types.
    """
    typed = [file for file in files if type_of(file.name)]
    if not typed:
        raise BadInputError(
            f"the data set contains no {one_of()} files", where=where, remedy="convert it to one of these types"
        )
    # If none seems to hold records, the reader says what is wrong with them.
    found = [file for file in typed if holds_records(file)] or typed
    refuse_several_types(found, where, "choose a configuration or a split, or download the data set and give its files")
    return found


def wanted_of(place: str) -> hub.Wanted | None:
    """What a source needs from the hub; None if it is on this machine. Nothing is downloaded.

    Raises:
        BadInputError, HarnessError: as of `harness.remote.hub.look`.
    """
    if place in KNOWN:
        return hub.look(KNOWN[place][0], "dataset", ["*.parquet"])
    data = None if _is_something(Path(place)) else hub_data(place)
    return hub_data_look(data) if data else None


def place_of(source: str) -> str:
    """The place of a source (`PLACE` or `FORMAT:PLACE`): a known name, a file or a folder. Nothing is read or downloaded.

    Raises:
        BadInputError: there is nothing that could be preference data.
    """
    from aligners.preferences.formats import FORMATS

    head, colon, rest = source.partition(":")
    place = rest if colon and head in FORMATS and rest else source
    if place in KNOWN or (hub_data(place) and not _is_something(Path(place))):
        return place
    if len(place) < _LONGEST_PATH and Path(place).is_dir():
        files_of_folder(Path(place), quiet=True)
    else:
        find_files(place)
    return place


def _download(name: str) -> str:
    """The folder of a public data set, from the hub's local cache or the hub."""
    repository, size = KNOWN[name]
    snapshot = hub.look(repository, "dataset", ["*.parquet"])
    if snapshot.folder is not None:
        return str(snapshot.folder)
    need([(hub.cache_folder(), snapshot.download or 0, repository)])
    logger.info(f"preference data {name}: downloading {repository} ({size}) from the hub")
    return str(hub.download(repository, "dataset", ["*.parquet"]))
