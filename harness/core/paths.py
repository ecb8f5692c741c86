"""Locations of files on the user's machine. Nothing here changes what is computed."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of the installed package `harness`."""


def cache_folder() -> Path:
    """The user's cache folder for this tool (`HARNESS_CACHE` moves it)."""
    moved = os.environ.get("HARNESS_CACHE")
    return Path(moved) if moved else Path(platformdirs.user_cache_dir("harness"))


def results_folder() -> Path:
    """Where runs are written and searched by default (`--results`)."""
    return Path("results")
