"""Repaired copies of checkpoint folders that transformers or vLLM cannot read as they are.

If tensor names contain those of a training wrapper (`weights.unwrapped`), both read a copy in the cache without them. vLLM also reads
the processor itself: if its files lack values (`completion`), the copy has them. All other files are links.
"""

from __future__ import annotations

import json
import logging
import shutil
import struct
from pathlib import Path
from typing import Any

from harness.core.errors import BadInputError
from harness.core.files import atomic_folder, read_json, sha256_json, write_json
from harness.core.memory import written_bytes
from harness.core.paths import cache_folder
from harness.models import pretrained
from harness.models.checkpoints import fingerprint
from harness.models.completion import complete, missing_settings
from harness.models.known import known, settings_hashes
from harness.models.weights import INDEX, fit, unwrapped, weight_files

logger = logging.getLogger(__name__)


def loadable(folder: str | Path) -> str:
    """The folder that transformers must load for these full weights; mostly the folder itself.

    Raises:
        BadInputError: it is not a checkpoint.
    """
    return _copied(Path(folder), wrapped=fit(Path(folder)).wrapped, incomplete=False)


def servable(location: str | Path) -> str:
    """The folder or hub id that vLLM must serve for these full weights; mostly the same one.

    Raises:
        BadInputError: it is not a checkpoint, or it is on a hub and needs a repair.
    """
    folder = Path(location)
    if not folder.is_dir():
        if missing_settings(pretrained.processor(location), location):
            raise BadInputError(
                "the processor lacks values that config.json has, and vLLM reads the hub's files unchanged",
                where=str(location),
                remedy=f"hf download {location} --local-dir DIR, and use DIR: the harness repairs local copies",
            )
        return str(location)
    complete_ = known("complete", settings_hashes(folder), lambda: _is_complete(folder))
    return _copied(folder, wrapped=fit(folder).wrapped, incomplete=complete_ == "no")


def _is_complete(folder: Path) -> str:
    return "no" if missing_settings(pretrained.processor(folder), folder) else "yes"


def _copied(folder: Path, *, wrapped: bool, incomplete: bool) -> str:
    """The folder, or its cached copy if it needs a repair, which is logged."""
    if not wrapped and not incomplete:
        return str(folder)
    # The copy links to this folder's files, so it is this folder's alone; a link to a file that was removed since leads nowhere.
    state = sha256_json([fingerprint(folder), settings_hashes(folder), wrapped, incomplete, str(folder.resolve())])
    copy = cache_folder() / "checkpoints" / f"served-{state}"
    if not copy.is_dir() or not all(path.exists() for path in copy.iterdir()):
        _write(folder, copy, wrapped=wrapped, incomplete=incomplete)
    if wrapped:
        size = sum((folder / name).stat().st_size for name in weight_files(folder))
        said = "the names of a training wrapper (torch.compile, DDP or FSDP) are removed from its tensors' names"
        logger.info(f"{folder}: {said}, in a copy of {written_bytes(size)}: {copy}")
    return str(copy)


def _write(folder: Path, copy: Path, *, wrapped: bool, incomplete: bool) -> None:
    """Make the copy; it appears only when it is complete."""
    with atomic_folder(copy) as temporary:
        if incomplete:
            processor = pretrained.processor(folder)
            complete(processor, folder)
            processor.save_pretrained(temporary)
        if wrapped:
            for name in weight_files(folder):
                _rename(folder / name, temporary / name)
            if (folder / INDEX).is_file():
                index = read_json(folder / INDEX, "weight index")
                index["weight_map"] = {unwrapped(name): file for name, file in index["weight_map"].items()}
                write_json(temporary / INDEX, index)
        for path in folder.iterdir():
            if not (temporary / path.name).exists():
                (temporary / path.name).symlink_to(path.resolve())


def _rename(source: Path, target: Path) -> None:
    """Copy a safetensors file with unwrapped tensor names; the numbers are not changed."""
    with source.open("rb") as stream, target.open("wb") as copy:
        length = struct.unpack("<Q", stream.read(8))[0]
        header: dict[str, Any] = json.loads(stream.read(length))
        text = json.dumps({unwrapped(name): entry for name, entry in header.items()}).encode()
        text += b" " * (-len(text) % 8)  # the format's own alignment
        copy.write(struct.pack("<Q", len(text)) + text)
        shutil.copyfileobj(stream, copy, 16 * 2**20)
