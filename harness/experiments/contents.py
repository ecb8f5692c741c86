"""Hashes of what an experiment reads by path, so that a step whose model, data or plugin changed is done again.

Names of fixed contents have no hash, so that their steps keep the keys that they had without these: embedded worlds, methods, suites,
backends and judges that are built in, and models and data of the hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligners.preferences.read import local_path
from harness.core import registry
from harness.core.files import sha256_file, sha256_json
from harness.core.plugins import Kind, source_files
from harness.core.worlds import find_world, world_of_pairs
from harness.experiments.keys import dotted
from harness.models import fingerprint, resolve
from harness.models.known import file_hash, folder_hash, settings_hashes


def contents(**hashes: str | Mapping[str, str] | None) -> dict[str, Any]:
    """A part of a step's key: `{"contents": HASHES}` without those that are empty, or {} if all are."""
    present = {name: value for name, value in hashes.items() if value}
    return {"contents": present} if present else {}


class Contents:
    """The hashes for one plan; each path is read once."""

    def __init__(self) -> None:
        self._hashes: dict[str, str] = {}

    def model(self, name: str) -> str | None:
        """Of a model's folder: of its weights, and of its configuration, template and tokenizer."""
        location = resolve(name).location
        if location is None or not Path(location).is_dir():
            return None
        if (key := f"model {location}") not in self._hashes:
            self._hashes[key] = sha256_json([fingerprint(location), settings_hashes(Path(location))])
        return self._hashes[key]

    def data(self, label: str | None) -> str | None:
        """Of preference data: a file, or a folder with all files in it. Pictures that a file names elsewhere are not part of it."""
        if not label or world_of_pairs(label) is not None:
            return None
        path = local_path(label)
        return self._of(path) if path else None

    def benchmarks(self, label: str, suites: Sequence[str]) -> dict[str, str]:
        """Of the folders of suites in a folder of benchmark data, and of those that they fall back to, by name."""
        root = Path(label)
        if label == "official" or find_world(label.partition("@")[0]) is not None or not root.is_dir():
            return {}
        kinds = [registry.load("benchmarks", suite) for suite in suites]
        names = {name for kind in kinds for name in (kind.name, *kind.falls_back_to)}
        return {name: self._of(root / name) for name in sorted(names) if (root / name).is_dir()}

    def plugin(self, kind: Kind, name: str | None) -> str | None:
        """Of the code of a plugin: its file, or the files of its package."""
        if not name:
            return None
        entry = registry.entries(kind)[registry.adopt(kind, name)]
        if entry.builtin:
            return None
        hashes = sorted((name, sha256_file(path)) for name, path in source_files(entry))
        return sha256_json(hashes)

    def plugins(self, kind: Kind, names: Sequence[str]) -> dict[str, str]:
        """Of the code of the plugins among these names, by name."""
        return {registry.adopt(kind, name): code for name in names if (code := self.plugin(kind, name))}

    def settings(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Of the files and folders that settings name, such as a detector's, by the dotted key."""
        hashes = {}
        for key, value in dotted(values).items():
            if isinstance(value, str | Path) and (path := _as_path(str(value))) is not None:
                hashes[key] = self._of(path)
        return hashes

    def _of(self, path: Path) -> str:
        if (key := str(path)) not in self._hashes:
            self._hashes[key] = folder_hash(path) if path.is_dir() else file_hash(path)
        return self._hashes[key]


def _as_path(text: str) -> Path | None:
    """The file or folder that a text names; None if there is none, or if the text is a plain word, which may have another meaning."""
    path = Path(text)
    is_word = "/" not in text and not path.suffix
    if is_word or path.name in ("", ".."):  # no setting means all of the working directory, or of the machine
        return None
    try:
        return path if path.is_file() or path.is_dir() else None
    except OSError:  # a text that is too long for a name
        return None
