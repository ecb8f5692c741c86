"""How a spaCy pipeline is called in a metric's name."""

from __future__ import annotations

from pathlib import Path

from harness.core.files import sha256_file, sha256_json
from harness.core.names import name_from


def pipeline_label(pipeline: str) -> str:
    """The name of an installed pipeline; of a folder, its last part and a part of the hash of its contents, which any name can have."""
    folder = Path(pipeline)
    if not folder.is_dir():
        return pipeline
    contents = {
        path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    return f"{name_from(folder.resolve().name)}-{sha256_json(contents)[:8]}"
