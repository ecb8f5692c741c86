"""A set of preference data that a command writes in parts: it can be interrupted, continued, and written in shards.

    config.json what determines the set, written first; `kind` is its kind
    part-00000.parquet ...              several shards: shard-1-of-4-part-00000.parquet ...
    manifest.json                       written last; a shard's is shard-1-of-4.json, the last shard writes this one

A part in progress ends in `.unfinished`. A set without a manifest is refused as data: `refuse_incomplete`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.core.errors import BadInputError
from harness.core.files import read_json, write_json
from harness.core.inside import Folder
from harness.core.record import Record, check
from harness.core.removal import REPLACED
from harness.core.typed import Fields

logger = logging.getLogger(__name__)

T = TypeVar("T")
M = TypeVar("M", bound=Record)
MANIFEST, CONFIG = "manifest.json", "config.json"
UNFINISHED = ".unfinished"
_DETERMINES = frozenset({"kind", "format", "seed", "shards", "part_size"})
"""Keys that identify a set's configuration."""
_SHARD_MANIFEST = re.compile(r"shard-([0-9]{1,6})-of-([0-9]{1,6})\.json")
_PART = re.compile(rf"(?:shard-[0-9]+-of-[0-9]+-)?part-[0-9]{{5,}}\.parquet(?:{re.escape(UNFINISHED)})?")


@dataclass(frozen=True)
class SetShard:
    """The `number`-th of `count` slices of the examples, from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> SetShard:
        """Read `i/n`.

        Raises:
            BadInputError: it has another form, or i is not from 1 to n.
        """
        number, _, count = text.partition("/")
        given = re.fullmatch(r"[0-9]{1,6}/[0-9]{1,6}", text) is not None
        if not (given and 1 <= int(number) <= int(count)):
            raise BadInputError(
                f"--shard must be i/n with i from 1 to n, and n with at most six digits, e.g. 2/4, not '{text[:80]}'"
            )
        return cls(int(number), int(count))

    @property
    def name(self) -> str:
        """Prefix of its files; sorted names are in the order of the examples."""
        return f"shard-{self.number:0{len(str(self.count))}d}-of-{self.count}" if self.count > 1 else ""

    @property
    def manifest(self) -> str:
        """Its manifest's file name."""
        return f"{self.name}.json" if self.name else MANIFEST

    def of(self, examples: Sequence[T]) -> Sequence[T]:
        """Its slice; all slices in order are the examples."""
        start, end = (len(examples) * edge // self.count for edge in (self.number - 1, self.number))
        return examples[start:end]


WHOLE = SetShard()
"""The whole set."""


def kind_of(folder: Path) -> str | None:
    """The kind of the set that a folder has, finished or not; None if it has no set."""
    config = folder / CONFIG
    found = read_json(config, "configuration") if config.is_file() else None
    return str(found.get("kind")) if isinstance(found, Mapping) and found.keys() >= _DETERMINES else None


def same_set(folder: Path, config: Mapping[str, Any], what: str, *, beside: Sequence[str] = ()) -> None:
    """Make sure that a resumed set is the same set, and that a new set's folder contains nothing else.

    Args:
        folder: the set's.
        config: what determines the set, JSON-able.
        what: the set's kind, for messages.
        beside: names that may exist in the folder without a configuration.

    Raises:
        BadInputError: it is another set, or the folder contains other files.
    """
    before = folder / CONFIG
    if before.exists():
        if changed := changed_keys(folder, config):
            raise BadInputError(
                f"the set was begun with other settings ({', '.join(changed)})",
                where=str(before),
                remedy="use the same settings, write to another folder, or start again with --overwrite",
            )
    elif not (folder / REPLACED).exists() and (
        strange := sorted(
            path.name for path in folder.iterdir() if not path.name.endswith(".lock") and path.name not in beside
        )
    ):  # a set that is started again may have other files next to it, as before
        raise BadInputError(
            f"the folder is not empty, and is not a {what} ({', '.join(strange[:3])})",
            where=str(folder),
            remedy="write to another folder",
        )


def changed_keys(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """The keys in which the configuration of a folder's set differs; it must exist."""
    old, new = read_json(folder / CONFIG, "configuration"), json.loads(json.dumps(config))
    if not isinstance(old, dict):
        return sorted(new)
    return [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]


def join_shards(folder: Path, shard: SetShard, kind: type[M], joined: Callable[[Sequence[M]], dict[str, Any]]) -> M:
    """Return a shard's manifest; if all shards of this set are done, write the whole set's.

    Args:
        folder: the set's.
        shard: a shard with a manifest.
        kind: the record of these sets' manifests.
        joined: all shards' manifests -> the keys of the whole set's that replace a shard's.
    """
    manifest = read_manifest(folder / shard.manifest, kind)
    done = done_shards(folder)
    if shard.count > 1 and len(done) == shard.count and not (folder / MANIFEST).exists():
        shards = [read_manifest(path, kind) for path in done]
        shared = {name: value for name, value in manifest.written().items() if name != "shard"}
        write_json(folder / MANIFEST, check(kind, shared | joined(shards), "manifest", folder / MANIFEST).written())
    return manifest


def read_manifest(path: Path, kind: type[M]) -> M:
    """The manifest of a shard or a set.

    Raises:
        BadInputError: it cannot be read or used.
    """
    return check(kind, read_json(path, "manifest"), "manifest", path)


def done_shards(folder: Path) -> list[Path]:
    """The manifests of the shards that are done, in the order of the examples; none of a set that is not written in shards.

    A manifest counts only with the configuration of the folder's set: those of a set that was replaced may still be there.
    """
    config = _config_of(folder)
    if config is None:
        return []
    paths = sorted(folder.glob("shard-*-of-*.json"))
    return [path for path in paths if _is_shard(path.name, config["shards"]) and _has_configuration(path, config)]


def _is_shard(name: str, count: Any) -> bool:
    match = _SHARD_MANIFEST.fullmatch(name)
    return match is not None and int(match[2]) == count and SetShard(int(match[1]), count).manifest == name


def _has_configuration(manifest: Path, config: Mapping[str, Any]) -> bool:
    written = read_json(manifest, "manifest")
    return isinstance(written, dict) and all(written.get(key) == value for key, value in config.items())


def parts_and_manifests(folder: Path) -> list[Path]:
    """The manifests and the parts that a folder has, finished or not, of whatever number of shards; the manifests first."""
    names = sorted(path.name for path in folder.iterdir())
    manifests = [name for name in names if name == MANIFEST or _SHARD_MANIFEST.fullmatch(name)]
    return [folder / name for name in [*manifests, *(name for name in names if _PART.fullmatch(name))]]


def listed_files(folder: Path) -> list[Path] | None:
    """The Parquet files of a complete set of ours, as its manifest lists them; None of any other folder, or if it lists none.

    Raises:
        BadInputError: the manifest cannot be read, or a file that it lists is missing or outside of the folder.
    """
    manifest = folder / MANIFEST
    if not manifest.exists() or not is_set(folder):
        return None
    fields = Fields(read_json(manifest, "manifest"), str(manifest), "manifest")
    if not fields.has("files"):
        return None
    inside = Folder(folder)
    files = [inside.path(entry.text("name"), str(manifest), "file") for entry in fields.records("files")]
    if missing := [file.name for file in files if not file.is_file()]:
        raise BadInputError(
            f"{len(missing)} of the set's {len(files)} files are missing, the first: {missing[0]}",
            where=str(folder),
            remedy="copy the whole folder again, or remove its manifest.json and run the command that wrote the set again",
        )
    if others := sorted({path.name for path in folder.glob("*.parquet")} - {file.name for file in files}):
        logger.warning(
            f"{folder}: {len(others)} Parquet files are not in the set's manifest, and not read: {others[0]}"
        )
    return sorted(files)


def is_set(folder: Path) -> bool:
    """Whether a folder has a set of ours, finished or not; another program's files are no error."""
    return _config_of(folder) is not None


def _config_of(folder: Path) -> dict[str, Any] | None:
    """The configuration of a set of ours, or None."""
    try:
        value = json.loads((folder / CONFIG).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):  # not ours
        return None
    return value if isinstance(value, dict) and value.keys() >= _DETERMINES else None


def refuse_incomplete(folder: Path) -> None:
    """Refuse an incomplete set of ours, because it is only a part of the data.

    Raises:
        BadInputError: it is one.
    """
    if (folder / MANIFEST).exists() or (value := _config_of(folder)) is None:
        return
    shards = f"; {len(done_shards(folder))} of {value['shards']} shards are done" if value["shards"] != 1 else ""
    raise BadInputError(
        f"this set is not complete{shards}",
        where=str(folder),
        remedy="run the command that writes it again: it resumes",
    )
