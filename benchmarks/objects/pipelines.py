"""How a spaCy pipeline is called in a metric's name, and the hash of its folder."""

from __future__ import annotations

from pathlib import Path

from harness.core.files import sha256_file, sha256_json
from harness.core.names import name_from


def pipeline_label(pipeline: str) -> str:
    """The name of an installed pipeline; of a folder, its last part and a part of the hash of its contents, which any name can have."""
    sha256 = pipeline_sha256(pipeline)
    return pipeline if sha256 is None else f"{name_from(Path(pipeline).resolve().name)}-{sha256[:8]}"


def pipeline_sha256(pipeline: str) -> str | None:
    """SHA-256 of the names and contents of a pipeline folder's files, in hexadecimal digits; None for an installed pipeline."""
    folder = Path(pipeline)
    if not folder.is_dir():
        return None
    contents = {
        path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    return sha256_json(contents)
