"""Resolving a user's name for preference data to files."""

from __future__ import annotations

import codecs
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from aligners.preferences.hub_data import HubData
from aligners.preferences.hub_data import files_of as hub_data_files
from aligners.preferences.hub_data import look as hub_data_look
from aligners.preferences.set_folder import refuse_incomplete
from harness.core.disk import need
from harness.core.errors import BadInputError, shown
from harness.core.reading import open_binary, read_json
from harness.core.typed import Fields
from harness.remote import hub

logger = logging.getLogger(__name__)

KNOWN = {
    "rlaif-v": ("openbmb/RLAIF-V-Dataset", "about 83,000 pairs, some 12 GB"),
    "rlhf-v": ("openbmb/RLHF-V-Dataset", "about 5,700 pairs, some 300 MB"),
    "vlfeedback": ("MMInstruction/VLFeedback", "about 80,000 prompts with four rated answers each"),
}
"""Names of public data sets on the hub, and their sizes for the log."""
_PACKABLE = (".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (".parquet", ".jsonl", ".json", ".arrow", ".tar", ".csv", ".tsv", *(f"{suffix}.gz" for suffix in _PACKABLE))
"""The types of files that are read."""
_SPLIT = re.compile(r"(?:^|[-_./])(train|training|test|validation|valid|val|dev|eval)(?:[-_./]|$)")
_LONGEST_PATH = 4096
_TRAIN = ("train", "training")


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
        BadInputError: there is nothing there.
        HarnessError: a data set of the hub cannot be downloaded.
    """
    if source in KNOWN:
        return find_files(_download(source))
    path = Path(source)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError:  # a text that is too long for a name
        is_folder = is_file = False
    if is_folder:
        refuse_incomplete(path)
        return Files(path, _of_folder(path))
    if not is_file:
        if _is_something(path):
            open_binary(path, "preference data").close()  # raises an error about its type
        if (data := hub_data(source)) is not None:
            folder, files = hub_data_files(data)
            return Files(folder, _readable(files, data.repository), folder.parent.parent / "blobs")
        raise BadInputError(
            "this preference data does not exist",
            where=source,
            remedy=f"give a {_or(SUFFIXES)} file, a folder of them, a data set of the hub (NAMESPACE/NAME), or one of: "
            f"{', '.join(KNOWN)}",
        )
    if not path.name.endswith(SUFFIXES):
        raise BadInputError(
            f"preference data is {_or(SUFFIXES)}, not {shown(path.suffix)}",
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
    return None if source.endswith(SUFFIXES) else HubData.parse(source)


def _readable(files: list[Path], where: str) -> list[Path]:
    """The files that contain records; the others are pictures that these name.

    Raises:
        BadInputError: there are none.
    """
    for suffix in SUFFIXES:
        if found := [file for file in files if file.name.endswith(suffix)]:
            return found
    raise BadInputError(
        f"the data set contains no {_or(SUFFIXES)} files", where=where, remedy="convert it to one of these types"
    )


def _of_folder(folder: Path) -> list[Path]:
    return _training_part(folder, _record_files(folder))


def _record_files(folder: Path) -> list[Path]:
    """The files of a folder that may contain records, of the first existing type.

    Raises:
        BadInputError: there are none.
    """
    for suffix in SUFFIXES:
        found = sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file() and _holds_records(path))
        if found:
            return found
    raise BadInputError(f"the folder contains no {_or(SUFFIXES)} files", where=str(folder))


def _holds_records(path: Path) -> bool:
    """Whether a file may contain records, and is not a manifest or description, which are JSON objects.

    In a folder of `datasets` (`save_to_disk`), only the files in its state file contain records; others are its cache.
    """
    state = path.with_name("state.json")
    if path.suffix == ".arrow" and state.is_file():
        fields = Fields(read_json(state, "state of the data set"), str(state), "state of the data set")
        named = {one.text("filename") for one in fields.records("_data_files", [])}
        return not named or path.name in named
    if path.suffix == ".json":
        with open_binary(path, "data") as stream:
            return stream.read(256).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    return True


def _training_part(folder: Path, files: list[Path]) -> list[Path]:
    splits: dict[str, list[Path]] = {}
    for file in files:
        name = _SPLIT.search(str(file.relative_to(folder).with_suffix("")))
        splits.setdefault(name.group(1) if name else "", []).append(file)
    train = [file for name in _TRAIN for file in splits.get(name, [])]
    others = sorted(set(splits) - {*_TRAIN, ""})
    if not train or not others:
        return files
    left = sum(len(splits[name]) for name in others)
    logger.info(f"{folder.name}: using the split train; files of {', '.join(others)} ({left} in all) are not used")
    return sorted(train + splits.get("", []))


def _or(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


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
        _record_files(Path(place))
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
