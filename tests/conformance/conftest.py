"""The official scorers' recorded outputs, where they are there: a folder `shared/conformance` beside the checkout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "conformance"


@pytest.fixture(scope="session")
def conformance() -> Path:
    """The folder of recorded cases."""
    if not FOLDER.is_dir():
        pytest.skip(f"the recorded outputs are not there: {FOLDER}")
    return FOLDER


@pytest.fixture
def nltk_data(conformance: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """NLTK's data of that folder, found before any other."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(conformance / "nltk_data"), *nltk.data.path])
    yield conformance / "nltk_data"
