"""Which files of a folder are records of preference data: nothing that may be data is left out without a word."""

from __future__ import annotations

import codecs
import gzip
import logging
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from aligners.preferences.set_folder import is_set, listed_files
from harness.core.errors import BadInputError
from harness.core.reading import open_binary, read_json
from harness.core.typed import Fields

logger = logging.getLogger(__name__)

_PACKABLE = (".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (".parquet", ".jsonl", ".json", ".arrow", ".tar", ".csv", ".tsv", *(f"{suffix}.gz" for suffix in _PACKABLE))
"""The types of files that are read; names may have them in capital letters."""
_SPLIT = re.compile(r"(?:^|[-_./])(train|training|test|validation|valid|val|dev|eval)(?:[-_./]|$)")
_TRAIN = ("train", "training")
_LONGEST_LINE = 16 << 20
"""Bytes of a JSON file in which its first line must end, if it has one object per line."""


def type_of(name: str) -> str | None:
    """The type of a file by its name, one of `SUFFIXES`; None for other files."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)


def one_of(words: Sequence[str] = SUFFIXES) -> str:
    """Types in a message."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


def files_of_folder(folder: Path, types: Sequence[str] = SUFFIXES, *, quiet: bool = False) -> list[Path]:
    """The files of a folder that contain the records to train on, sorted; all have one type.

    If file names mark splits, only the training split is used. In a set that a command of ours wrote, only the Parquet files that its
    manifest lists are data.

    Args:
        folder: searched with its subfolders, also linked ones.
        types: the types that are data in this folder.
        quiet: do not log that other splits are not used.

    Raises:
        BadInputError: there are none, or they have several types; or a set of ours lacks one of its files.
    """
    if (listed := listed_files(folder)) is not None:
        return listed
    types = (".parquet",) if is_set(folder) else types
    files = [path for path in _files_below(folder, types) if holds_records(path)]
    if not files:
        raise BadInputError(f"the folder contains no {one_of()} files", where=str(folder))
    files, note = _training_part(folder, files)
    if note and not quiet:
        logger.info(note)
    refuse_several_types(
        files, str(folder), "give one file, or a folder with files of one type: move away what is not preference data"
    )
    return files


def refuse_several_types(files: Sequence[Path], where: str, remedy: str) -> None:
    """Refuse files of several types: they may be the same data twice, or not all may be preference data.

    Raises:
        BadInputError: they have several types.
    """
    by_type = {suffix: [file.name for file in files if type_of(file.name) == suffix] for suffix in SUFFIXES}
    present = {suffix: names for suffix, names in by_type.items() if names}
    if len(present) > 1:
        listed = ", ".join(
            f"{len(names)} {suffix} ({names[0]}{', ...' if len(names) > 1 else ''})"
            for suffix, names in present.items()
        )
        raise BadInputError(f"the data has files of several types: {listed}", where=where, remedy=remedy)


def holds_records(path: Path) -> bool:
    """Whether a file may contain records, and is not a manifest or description, which are JSON objects.

    In a folder of `datasets` (`save_to_disk`), only the files in its state file contain records; others are its cache.
    """
    kind = type_of(path.name)
    state = path.with_name("state.json")
    if kind == ".arrow" and state.is_file():
        fields = Fields(read_json(state, "state of the data set"), str(state), "state of the data set")
        named = {one.text("filename") for one in fields.records("_data_files", [])}
        return not named or path.name in named
    if kind == ".json":
        with open_binary(path, "data") as stream:
            return _has_rows(stream)
    if kind == ".json.gz":
        try:
            with open_binary(path, "data") as packed, gzip.open(packed) as stream:
                return _has_rows(stream)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            return True  # the reader says what is wrong with it
    return True


def _has_rows(stream: IO[bytes] | gzip.GzipFile) -> bool:
    """Whether a JSON file contains an array or one object per line, and not one object, by its beginning.

    The reader refuses a file of lines that is named as JSON, and says how to name it.
    """
    begin = stream.read(256).removeprefix(codecs.BOM_UTF8).lstrip()
    if not begin.startswith(b"{"):
        return begin.startswith(b"[")
    stream.seek(0)
    lines = (line.strip() for line in iter(lambda: stream.readline(_LONGEST_LINE), b""))
    first, second = (next(filter(None, lines), b"") for _ in range(2))
    return first.endswith(b"}") and second.startswith(b"{")


def _files_below(folder: Path, types: Sequence[str]) -> list[Path]:
    """The files of some types in a folder and its subfolders, sorted. Links to folders are followed, but not those to a folder that is
    read anyway or that contains this one.
    """
    root = Path(os.path.realpath(folder))
    seen, files, pending = {root}, list[Path](), [folder]
    # Linked folders are appended, so that a folder that is here has its own path and not a link's.
    for start in pending:
        real = Path(os.path.realpath(start))
        if start is not folder and (real in seen or root.is_relative_to(real)):
            continue
        for place, folders, names in os.walk(start):
            inner = {Path(place, name): Path(os.path.realpath(Path(place, name))) for name in sorted(folders)}
            seen.add(Path(os.path.realpath(place)))
            pending += [path for path in inner if path.is_symlink()]
            folders[:] = [path.name for path, target in inner.items() if target not in seen]
            files += [path for name in names if type_of(name) in types and (path := Path(place, name)).is_file()]
    return sorted(files)


def _training_part(folder: Path, files: list[Path]) -> tuple[list[Path], str]:
    """The files of the training split, and what to log about those of other splits."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        name = _SPLIT.search(str(file.relative_to(folder).with_suffix("")))
        splits.setdefault(name.group(1) if name else "", []).append(file)
    train = [file for name in _TRAIN for file in splits.get(name, [])]
    others = sorted(set(splits) - {*_TRAIN, ""})
    if not train or not others:
        return files, ""
    left = sum(len(splits[name]) for name in others)
    note = f"{folder.name}: using the split train; files of {', '.join(others)} ({left} in all) are not used"
    return sorted(train + splits.get("", [])), note
