"""Checks of data, keys and disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.core.paths import cache_folder
from harness.datasets.catalogue import catalogue, check
from harness.doctor.line import Line
from harness.remote.endpoint import KEY_VARIABLE

_KEYS = {
    KEY_VARIABLE: "hosted judges and models",
    "HARNESS_API_KEY": "`harness serve --host`",
    "HF_TOKEN": "gated models of the hub",
}
_ROOM_GB = 5


def surroundings(results: Path) -> Iterator[Line]:
    """Every line about data, keys and disk."""
    for data in catalogue().values():
        if data.place != "benchmarks" or data.hub:
            continue
        states = check(data)
        missing = [found for found in states if found.state == "missing"]
        wrong = [found for found in states if found.state == "wrong"]
        if wrong:
            yield Line(f"data {data.name}", "fail", f"{wrong[0].path} is not the expected file", wrong[0].note)
        elif missing:
            here = "not here" if len(missing) == len(states) else f"{len(missing)} of {len(states)} parts are missing"
            yield Line(
                f"data {data.name}", "warn", here, f"harness data get {data.name}, or harness data import FOLDER"
            )
        else:
            yield Line(f"data {data.name}", "ok", str(data.root()))
    for name, use in _KEYS.items():
        there = bool(os.environ.get(name))
        yield Line(f"key {name}", "ok" if there else "warn", "is set" if there else f"is not set (for {use})")
    yield _writable("cache folder", cache_folder(), "set HARNESS_CACHE to another folder")
    yield _writable("results folder", results, "use another folder with --results")


def _writable(name: str, folder: Path, remedy: str) -> Line:
    """Whether files can be written to a folder (or where it would be made), and how much room there is."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing) as stream:
            stream.write(b"x")
    except OSError as error:
        return Line(name, "fail", f"{folder} cannot be written: {error.strerror}", remedy)
    free = shutil.disk_usage(existing).free / 2**30
    if free < _ROOM_GB:
        return Line(name, "warn", f"{folder}: {free:.1f} GB free, models need more than {_ROOM_GB}", remedy)
    return Line(name, "ok", f"{folder}, {free:.0f} GB free")
