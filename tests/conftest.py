"""Shared fixtures."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core import notes

CONFORMANCE = Path(__file__).resolve().parents[1].parent / "shared" / "conformance"
"""The official scorers' recorded outputs, where they are there: a folder `shared/conformance` beside the checkout."""


LONGEST = ("test_tutorial.py", "test_vllm_parallel.py", "test_notebook.py", "test_smoke.py", "test_kills.py")
"""Files that take a minute or more with one or two tests."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Exhaustive tests run only if -m names them, also beside another -m. What takes long comes first: a worker takes a whole file, and the
    others should not wait for the last one."""
    if "exhaustive" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("exhaustive")])
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.name not in LONGEST, -slow[item.path]))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv(
        "HARNESS_CACHE", os.environ.get("HARNESS_TEST_CACHE") or str(tmp_path_factory.getbasetemp() / "cache")
    )


@pytest.fixture(autouse=True)
def network_as_before() -> Iterator[None]:
    """A command that found no hub asks it nothing more in its process (`harness.remote.hub.go_offline`); the next test may ask."""
    before = os.environ.get("HF_HUB_OFFLINE")
    yield
    changed = before is None and os.environ.pop("HF_HUB_OFFLINE", None) is not None
    if changed and (constants := sys.modules.get("huggingface_hub.constants")):
        constants.HF_HUB_OFFLINE = False  # type: ignore[attr-defined]


@pytest.fixture(scope="session", autouse=True)
def notes_are_shown() -> None:
    """What the library modules log is printed to standard error, as the command line does it."""
    notes.show()


@pytest.fixture(scope="session")
def conformance() -> Path:
    """The folder of recorded cases; without it, a test that asks for it is skipped."""
    if not CONFORMANCE.is_dir():
        pytest.skip(f"the recorded outputs are not there: {CONFORMANCE}")
    return CONFORMANCE


@pytest.fixture
def nltk_data(conformance: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """NLTK's data of that folder, found before any other."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(conformance / "nltk_data"), *nltk.data.path])
    return conformance / "nltk_data"


@pytest.fixture
def nltk_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """NLTK's data, from this machine or from that folder; without either, a test that asks for it is skipped."""
    import nltk

    from benchmarks.objects.nltk_parser import missing_data

    monkeypatch.setattr(nltk.data, "path", [*nltk.data.path, str(CONFORMANCE / "nltk_data")])
    if absent := missing_data("nouns"):
        pytest.skip(f"NLTK's data is not there: {', '.join(absent)}")
