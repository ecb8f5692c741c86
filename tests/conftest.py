"""Shared fixtures."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv(
        "HARNESS_CACHE", os.environ.get("HARNESS_TEST_CACHE") or str(tmp_path_factory.getbasetemp() / "cache")
    )
