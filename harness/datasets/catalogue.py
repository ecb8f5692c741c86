"""The known data sets: checking and downloading their files."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.core.disk import need
from harness.core.errors import UnknownNameError
from harness.core.files import read_json, sha256_file, write_json
from harness.core.locks import is_held, writing
from harness.core.paths import cache_folder
from harness.core.progress import progress
from harness.core.removal import remove
from harness.core.yaml_values import read_yaml
from harness.datasets.download import fetch
from harness.datasets.unfinished import marker
from harness.datasets.unpack import unpack
from harness.remote import hub

logger = logging.getLogger(__name__)

_SOURCES = Path(__file__).with_name("sources.yaml")
_RECORD = ".harness-data.json"
_WORTH_A_BAR = 200 << 20
"""Bytes from which on hashing takes noticeable time, so that progress is shown."""
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
            result.append(_present(folder / name, get, marker(folder, packed_name(archive))))
    for part in data.manual:
        result.append(_present(folder / part["path"], str(part["how"]), marker(folder, part["path"])))
    return result


def packed_name(archive: Mapping[str, Any]) -> str:
    """The file name of an archive."""
    return str(archive["url"]).rpartition("/")[2]


def _present(path: Path, how: str, unfinished: Path) -> Found:
    if unfinished.exists():
        return Found(path, "missing", f"an import or unpacking was interrupted; repeat it, or: {how}")
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
            write_record(folder, file["path"], digest)
    for archive in data.archives:
        if any(state[folder / name] != "there" for name in archive["expect"]):
            packed = folder / packed_name(archive)
            if not packed.exists():
                fetch(str(archive["url"]), packed, archive.get("sha256"))
            unpack(packed, folder, [(str(one), str(other)) for one, other in archive["unpack"]], archive["most_bytes"])
            remove(packed, within=folder)


def _record(folder: Path) -> dict[str, str]:
    path = folder / _RECORD
    return dict(read_json(path, "record of downloads")) if path.exists() else {}


def write_record(folder: Path, name: str, digest: str) -> None:
    """Note a file's SHA-256 in its data set's folder; later checks of a file without a published one compare with that."""
    write_json(folder / _RECORD, _record(folder) | {name: digest})
