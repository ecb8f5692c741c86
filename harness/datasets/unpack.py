"""Unpacking untrusted archives: no path outside, no link, no more bytes than expected."""

from __future__ import annotations

import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from harness.core.errors import HarnessError
from harness.core.progress import progress
from harness.core.removal import discard, move
from harness.core.temporary import temporary_folder
from harness.datasets.unfinished import filling

_BLOCK = 1 << 20


def unpack(archive: Path, into: Path, wanted: Sequence[tuple[str, str]], most_bytes: int) -> list[Path]:
    """Unpack the wanted members of a zip or tar file.

    Nothing appears under `into` before all members are unpacked, and the archive's part is marked as unfinished until all are in place,
    so an interrupted run leaves nothing that looks complete.

    Args:
        archive: the file.
        into: folder.
        wanted: (pattern of a member's whole name, folder below `into`); the file gets the last part of the name.
        most_bytes: limit for all members together, by their real size, whatever the archive states.

    Returns:
        The files, in the archive's order.

    Raises:
        HarnessError: not an archive, a member that leads outside or is a link, two members of one name, or too many bytes.
    """
    into.mkdir(parents=True, exist_ok=True)
    patterns = [(re.compile(pattern), folder) for pattern, folder in wanted]
    try:
        with temporary_folder(into / "unpack") as stage:
            try:
                result = []
                staged = _staged(archive, stage, patterns, most_bytes)
                with filling(into, archive.name):
                    for place, file in staged.items():
                        target = into / place
                        target.parent.mkdir(parents=True, exist_ok=True)
                        move(file, target, within=into)
                        result.append(target)
                return result
            finally:
                discard(stage, within=into)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise HarnessError(
            f"the archive cannot be unpacked: {error}", where=str(archive), remedy="remove it and download it again"
        ) from None


def _staged(
    archive: Path, stage: Path, patterns: Sequence[tuple[re.Pattern[str], str]], most_bytes: int
) -> dict[str, Path]:
    """Unpack the wanted members to files in `stage`; returns them by their final path.

    Raises:
        HarnessError: as of `unpack`.
    """
    made: dict[str, Path] = {}
    written = 0
    with progress(f"unpacking {archive.name}", None) as advance:
        for name, size, stream in _members(archive):
            folder = next((folder for pattern, folder in patterns if pattern.fullmatch(name)), None)
            if folder is None:
                continue
            place = f"{folder}/{PurePosixPath(name).name}"
            if place in made:
                raise HarnessError(f"the archive has two files for {place}", where=str(archive))
            if written + size > most_bytes:
                raise HarnessError(_too_much(most_bytes), where=f"{archive}, member {name}")
            made[place] = stage / str(len(made))
            with made[place].open("wb") as target:
                while block := stream.read(_BLOCK):
                    written += len(block)
                    if written > most_bytes:
                        raise HarnessError(_too_much(most_bytes), where=f"{archive}, member {name}")
                    target.write(block)
            advance()
    if not made:
        raise HarnessError("the archive has none of the expected files", where=str(archive))
    return made


def _too_much(most: int) -> str:
    return f"the archive unpacks to more than {most:,} bytes, which is not the expected file"


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, stated size and bytes of every file; whatever is not a plain file inside the archive is refused."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                _check_name(archive, info.filename)
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise HarnessError("the archive has a link", where=f"{archive}, member {info.filename}")
                if not info.is_dir():
                    with opened.open(info) as stream:
                        yield info.filename, info.file_size, stream
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as opened_tar:
            for member in opened_tar:
                _check_name(archive, member.name)
                if not (member.isfile() or member.isdir()):
                    raise HarnessError("the archive has a link or a device", where=f"{archive}, member {member.name}")
                if member.isfile():
                    stream_tar: Any = opened_tar.extractfile(member)
                    yield member.name, member.size, stream_tar
    else:
        raise HarnessError(
            "this is neither a zip nor a tar file", where=str(archive), remedy="remove it and download it again"
        )


def _check_name(archive: Path, name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
        raise HarnessError("the archive has a path that points outside", where=f"{archive}, member {name!r}")
