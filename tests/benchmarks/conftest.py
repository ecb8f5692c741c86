"""The folder of the official scorers' recorded outputs, for tests that need NLTK's data or the official files from there."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "conformance"


@pytest.fixture(scope="session")
def conformance() -> Path:
    """The folder; without it, a test that asks for it is skipped."""
    if not FOLDER.is_dir():
        pytest.skip(f"the recorded outputs are not there: {FOLDER}")
    return FOLDER


@pytest.fixture
def nltk_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """NLTK's data, from this machine or from that folder; without either, a test that asks for it is skipped."""
    import nltk

    from benchmarks.objects.nltk_parser import missing_data

    monkeypatch.setattr(nltk.data, "path", [*nltk.data.path, str(FOLDER / "nltk_data")])
    if absent := missing_data("nouns"):
        pytest.skip(f"NLTK's data is not there: {', '.join(absent)}")
