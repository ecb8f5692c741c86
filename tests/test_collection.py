"""Which tests a command of CONTRIBUTING.md runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("selected", "expected"), [((), False), (("-m", "not slow"), False), (("-m", "exhaustive"), True)]
)
def test_exhaustive_tests_run_only_if_they_are_named(selected: tuple[str, ...], expected: bool) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "tests/harness/worlds/test_shipped.py",
        *selected,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("test_the_recipe_makes_a_model_of_the_same_scores" in done.stdout) == expected
    assert ("test_its_recipe_is_that_of_the_sources" in done.stdout) != expected
