"""The known data sets: checking their files, downloading and importing them."""

from __future__ import annotations

import functools
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.core.disk import need
from harness.core.errors import BadInputError, UnknownNameError
from harness.core.files import read_json, sha256_file, write_json
from harness.core.locks import is_held, writing
from harness.core.paths import cache_folder
from harness.core.progress import progress
from harness.core.removal import move, remove
from harness.core.yaml_values import read_yaml
from harness.datasets.download import fetch
from harness.datasets.unpack import unpack
from harness.remote import hub

logger = logging.getLogger(__name__)

_SOURCES = Path(__file__).with_name("sources.yaml")
_RECORD = ".harness-data.json"
_WORTH_A_BAR = 200 << 20
"""Bytes from which on hashing takes noticeable time, so that progress is shown."""
_IMAGES = frozenset((".jpg", ".jpeg", ".png"))
_OFFICIAL = "it is the official file"
State = Literal["there", "missing", "wrong"]


@dataclass(frozen=True)
class Found:
    """One file (or folder) of a data set on this machine.

    Attributes:
        path: where it is or should be.
        state: whether it exists and is correct.
        note: what is wrong, or how to get it.
    """

    path: Path
    state: State
    note: str = ""


@dataclass(frozen=True)
class DataSet:
    """An entry of `sources.yaml`."""

    name: str
    title: str
    source: str
    licence: str
    size: str
    folder: str = "."
    place: Literal["benchmarks", "nltk"] = "benchmarks"
    hub: str | None = None
    needs: tuple[str, ...] = ()
    files: tuple[dict[str, Any], ...] = field(default=())
    archives: tuple[dict[str, Any], ...] = field(default=())
    manual: tuple[dict[str, Any], ...] = field(default=())

    def root(self, root: Path | None = None) -> Path:
        """Its folder, below `root` or in the cache folder."""
        return (root or cache_folder() / ("nltk_data" if self.place == "nltk" else "benchmarks")) / self.folder


@functools.cache
def catalogue() -> dict[str, DataSet]:
    """All data sets of the catalogue, by name."""
    content = read_yaml(_SOURCES, "list of data sets")
    lists = ("needs", "files", "archives", "manual")
    data_sets = {}
    for name, entry in content.items():
        values: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in entry.items()}
        data_sets[name] = DataSet(name=name, **values)
    return data_sets


def find(name: str) -> DataSet:
    """A data set by its name.

    Raises:
        UnknownNameError: there is none.
    """
    known = catalogue()
    if name not in known:
        raise UnknownNameError("data set", name, known)
    return known[name]


def with_needs(names: Sequence[str]) -> list[DataSet]:
    """The data sets and those that they require, each once."""
    data_sets: dict[str, DataSet] = {}
    for name in names:
        data_sets[name] = find(name)
        for needed in data_sets[name].needs:
            data_sets.setdefault(needed, find(needed))
    return list(data_sets.values())


def compare(path: Path) -> str | None:
    """A text that says whether a file is the published one; None if no checksum is known for its name."""
    published = {
        name: file["sha256"]
        for data in catalogue().values()
        for file in data.files
        for name in (Path(file["path"]).name, str(file["url"]).rpartition("/")[2])
        if file.get("sha256")
    }
    if path.name not in published or not path.is_file():
        return None
    digest = sha256_file(path)
    if digest == published[path.name]:
        return _OFFICIAL
    return f"it is not the official file: its SHA-256 is {digest}, the official one's {published[path.name]}"


def describe(path: Path) -> str:
    """Value for a record: "official" or the file's SHA-256."""
    return "official" if compare(path) == _OFFICIAL else f"sha256:{sha256_file(path)}"


def check(data: DataSet, root: Path | None = None) -> list[Found]:
    """The state of every file of a data set: correct, missing (with how to get it), or wrong (with what was expected)."""
    if data.hub:
        return [_on_hub(data)]
    folder = data.root(root)
    get = f"harness data get {data.name}"
    recorded = _record(folder)
    result = []
    large = sum((folder / file["path"]).stat().st_size for file in data.files if (folder / file["path"]).is_file())
    bar = progress(f"checking {data.name}", len(data.files)) if large > _WORTH_A_BAR else nullcontext(lambda: None)
    with bar as advance:
        for file in data.files:
            path = folder / file["path"]
            wanted, whose = file.get("sha256"), "the official file"
            if wanted is None:
                wanted, whose = recorded.get(file["path"]), "the file as it was downloaded"
            if not path.is_file():
                result.append(Found(path, "missing", get))
            elif wanted is not None and (digest := sha256_file(path)) != wanted:
                result.append(Found(path, "wrong", f"SHA-256 {digest}; {whose} has {wanted}; remove it, then {get}"))
            else:
                result.append(Found(path, "there", "" if wanted else "no checksum is known for it"))
            advance()
    for archive in data.archives:
        for name in archive["expect"]:
            result.append(_present(folder / name, get))
    for part in data.manual:
        result.append(_present(folder / part["path"], str(part["how"])))
    return result


def _present(path: Path, how: str) -> Found:
    there = any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size > 0
    return Found(path, "there") if there else Found(path, "missing", how)


def _on_hub(data: DataSet) -> Found:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Found(Path(snapshot_download(str(data.hub), repo_type="dataset", local_files_only=True)), "there")
    except (LocalEntryNotFoundError, HfHubHTTPError, FileNotFoundError, OSError):
        return Found(Path(str(data.hub)), "missing", f"harness data get {data.name}")


def get(data: DataSet, root: Path | None = None) -> list[Found]:
    """Download what is missing, and check all. Files that must be fetched by hand stay missing, with a note on how to get them.

    Raises:
        HarnessError: a download failed, or the file is not the expected one.
    """
    logger.info(f"{data.name}: {data.title}; {data.size}; licence: {data.licence}")
    if data.hub:
        found = hub.look(data.hub, "dataset")
        need([(hub.cache_folder(), found.download or 0, data.hub)])
        hub.download(data.hub, "dataset")
        return check(data, root)
    folder = data.root(root)
    lock = folder / ".get.lock"
    there = check(data, root)
    if not _lacks_files(data, folder, _states(there)) and not is_held(lock):  # the folder may be read-only
        return there
    # Another process that gets the same data unpacks and removes the same archives.
    with writing(lock, f"the data {data.name}", folder, keep=False, wait=True):
        _get_files(data, folder, _states(check(data, root)))
    return check(data, root)


def _states(found: Sequence[Found]) -> dict[Path, State]:
    return {one.path: one.state for one in found}


def _lacks_files(data: DataSet, folder: Path, state: Mapping[Path, State]) -> bool:
    """Whether there is something to download."""
    return any(state[folder / file["path"]] == "missing" for file in data.files) or any(
        state[folder / name] != "there" for archive in data.archives for name in archive["expect"]
    )


def _get_files(data: DataSet, folder: Path, state: Mapping[Path, State]) -> None:
    """Download the files and unpack the archives that are missing."""
    for file in data.files:
        if state[folder / file["path"]] == "missing":
            digest = fetch(str(file["url"]), folder / file["path"], file.get("sha256"))
            _write_record(folder, file["path"], digest)
    for archive in data.archives:
        if any(state[folder / name] != "there" for name in archive["expect"]):
            packed = folder / str(archive["url"]).rpartition("/")[2]
            if not packed.exists():
                fetch(str(archive["url"]), packed, archive.get("sha256"))
            unpack(packed, folder, [(str(one), str(other)) for one, other in archive["unpack"]], archive["most_bytes"])
            remove(packed, within=folder)


def bring(folder: Path, names: Sequence[str], root: Path | None = None) -> list[tuple[DataSet, list[Found]]]:
    """Import files from anywhere in a folder (for offline clusters), by name, and by checksum if one is known.

    Files are copied; images are linked if the file system supports it. Archives in the folder are unpacked.

    Args:
        folder: searched including its subfolders.
        names: data sets to look for; [] for all.

    Raises:
        BadInputError: no such folder, or it contains no file of the data sets.
    """
    if not folder.is_dir():
        raise BadInputError("this folder does not exist", where=str(folder))
    inside: dict[str, list[Path]] = {}
    folders: dict[str, list[Path]] = {}
    with progress(f"searching {folder.name or folder}", None) as advance:
        for top, below, files in os.walk(folder):
            for name in files:
                inside.setdefault(name, []).append(Path(top) / name)
            for name in below:
                folders.setdefault(name, []).append(Path(top) / name)
            advance()
    result = []
    taken = 0
    for data in with_needs(names or [name for name, one in catalogue().items() if not one.hub]):
        target = data.root(root)
        before = {found.path: found.state for found in check(data, root)}
        for file in data.files:
            place = target / file["path"]
            if before[place] != "there" and (source := _matching(inside, file)):
                _place(source, place)
                _write_record(target, file["path"], sha256_file(place))
                taken += 1
        for archive in data.archives:
            if all(before[target / name] == "there" for name in archive["expect"]):
                continue
            packed = inside.get(str(archive["url"]).rpartition("/")[2], [])
            if packed:
                wanted = [(str(one), str(other)) for one, other in archive["unpack"]]
                taken += len(unpack(packed[0], target, wanted, archive["most_bytes"]))
                continue
            for name in archive["expect"]:
                taken += _take_unpacked(inside, folders, target, name)
        for part in data.manual:
            if before[target / part["path"]] != "there":
                taken += _take_unpacked(inside, folders, target, part["path"])
        result.append((data, check(data, root)))
    if not taken and all(found.state != "there" for _, states in result for found in states):
        wanted_names = sorted(
            {Path(str(file["path"])).name for data, _ in result for file in data.files}
            | {str(archive["url"]).rpartition("/")[2] for data, _ in result for archive in data.archives}
        )
        raise BadInputError(
            "the folder contains no file of these data sets",
            where=str(folder),
            remedy=f"expected names: {', '.join(wanted_names[:12])}",
        )
    return result


def _matching(inside: dict[str, list[Path]], file: dict[str, Any]) -> Path | None:
    """The file with the right checksum; if none is known, the only file of that name."""
    names = {Path(str(file["path"])).name, str(file["url"]).rpartition("/")[2]}
    candidates = [path for name in sorted(names) for path in inside.get(name, [])]
    if file.get("sha256"):
        return next((path for path in candidates if sha256_file(path) == file["sha256"]), None)
    return candidates[0] if len(candidates) == 1 else None


def _take_unpacked(inside: dict[str, list[Path]], folders: dict[str, list[Path]], target: Path, name: str) -> int:
    """Import a file by its name, the files of a folder by its path, or the images of a folder by its name."""
    last = Path(name).name
    if files := inside.get(last):
        _place(files[0], target / name)
        return 1
    wanted = Path(name).parts
    for source in sorted(folders.get(last, [])):
        files = sorted(path for path in source.iterdir() if path.is_file())
        # A folder called "images" may contain anything; a folder with the whole expected path is the right one.
        if len(wanted) == 1 or source.parts[-len(wanted) :] != wanted:
            files = [path for path in files if path.suffix.lower() in _IMAGES]
        for file in files:
            _place(file, target / name / file.name)
        if files:
            return len(files)
    return 0


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.resolve() == source.resolve():
        return
    temporary = target.with_name(f".{target.name}.new")
    remove(temporary, within=target.parent)
    linked = False
    if source.suffix.lower() in _IMAGES:  # many, and only read; other files are copied, because NLTK refuses links
        with suppress(OSError):
            os.link(source.resolve(), temporary)
            linked = True
    if not linked:
        shutil.copyfile(source, temporary)
    move(temporary, target, within=target.parent)


def _record(folder: Path) -> dict[str, str]:
    path = folder / _RECORD
    return dict(read_json(path, "record of downloads")) if path.exists() else {}


def _write_record(folder: Path, name: str, digest: str) -> None:
    write_json(folder / _RECORD, _record(folder) | {name: digest})
